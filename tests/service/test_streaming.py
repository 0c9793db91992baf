"""`POST /v1/images/generations` with `stream: true`: what is sent, when, and how it ends."""

import base64
import io
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from service_live import Client, parse_events
from service_samples import plan

from service.engine.base import Progress
from service.previews import Previews, paced, preview_every, shown_steps

ROUTE = "/v1/images/generations"
PARTIAL = "image_generation.partial_image"
COMPLETED = "image_generation.completed"
OFF = {"cache": {"mode": "off"}}


def _stream(client: Client, headers: dict[str, str] | None = None, **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    body = {"stream": True, **fields}
    with client.http.stream("POST", ROUTE, json=body, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-request-id"]
        return list(parse_events(answer.iter_lines()))


def _pixels(b64: str, output_format: str = "PNG") -> np.ndarray[Any, Any]:
    with Image.open(io.BytesIO(base64.b64decode(b64))) as picture:
        assert (picture.format, picture.size) == (output_format, (32, 32))
        return np.asarray(picture.convert("RGB"), int)


@pytest.mark.parametrize("wanted", [None, 0, 1, 2, 3])
def test_a_full_run_shows_as_many_as_asked(client: Client, wanted: int | None) -> None:
    events = _stream(client, prompt="a streamed cube", partial_images=wanted, seed=5, **OFF)
    assert [name for name, _ in events] == [PARTIAL] * (wanted or 0) + [COMPLETED]
    assert all(data["type"] == name for name, data in events)
    assert [data["partial_image_index"] for _, data in events[:-1]] == list(range(wanted or 0))
    shared = {"size": "32x32", "quality": "auto", "background": "opaque", "output_format": "png", "seed": 5}
    for _, data in events:
        assert {key: data[key] for key in shared} == shared
        assert data["created_at"] > 1_700_000_000


def test_the_stream_ends_with_the_picture_of_a_plain_request(client: Client) -> None:
    wish = {"prompt": "a cube twice told", "seed": 11, **OFF}
    done = _stream(client, **wish, partial_images=2)[-1][1]
    plain = client.draw(**wish)
    assert done["b64_json"] == plain["b64_json"]
    assert set(done["cache"]) == set(plain["cache"])
    assert done["cache"]["verdict"] == "BYPASS"
    assert 0 < done["timings"]["denoise_seconds"] < done["timings"]["total_seconds"]
    assert done["usage"]["total_tokens"] == 0


def test_partial_images_come_closer_to_the_picture(client: Client) -> None:
    events = _stream(client, prompt="a cube taking shape", partial_images=3, seed=3, **OFF)
    *partials, final = [_pixels(data["b64_json"]) for _, data in events]
    distances = [float(np.abs(partial - final).mean()) for partial in partials]
    assert distances == sorted(distances, reverse=True)
    assert distances[-1] > 0


@pytest.mark.parametrize(("output_format", "quality"), [("jpeg", "hd"), ("webp", "low")])
def test_everything_is_in_the_asked_format(client: Client, output_format: str, quality: str) -> None:
    events = _stream(
        client,
        prompt="a cube in other clothes",
        partial_images=1,
        output_format=output_format,
        output_compression=50,
        quality=quality,
        **OFF,
    )
    assert len(events) == 2
    for _, data in events:
        assert data["output_format"] == output_format
        assert data["quality"] == {"hd": "high", "low": "low"}[quality]
        _pixels(data["b64_json"], output_format.upper())


def test_a_resumed_run_shows_what_its_fewer_steps_allow(client: Client) -> None:
    wish = {"prompt": "a cube seen before", "negative_prompt": "stream1"}
    client.draw(**wish)
    client.settle()
    events = _stream(client, **wish, partial_images=3, cache={"store": False})
    assert events[-1][1]["cache"]["skipped_steps"] == 4
    assert len(events) == 4
    few = _stream(client, **wish, partial_images=3, num_inference_steps=4, cache={"store": False})
    assert (few[-1][1]["cache"]["verdict"], few[-1][1]["cache"]["skipped_steps"]) == ("APPROX", 2)
    assert [name for name, _ in few] == [PARTIAL, COMPLETED]


def test_an_exact_hit_shows_nothing_on_the_way(client: Client) -> None:
    wish = {"prompt": "a cube kept", "negative_prompt": "stream2", "seed": 9}
    first = _stream(client, **wish, partial_images=1)
    client.settle()
    again = _stream(client, **wish, partial_images=3)
    assert [name for name, _ in again] == [COMPLETED]
    assert again[0][1]["cache"]["verdict"] == "EXACT"
    assert again[0][1]["b64_json"] == first[-1][1]["b64_json"]


def test_what_fails_before_the_start_has_a_status(client: Client) -> None:
    body = {"prompt": "a cube nobody drew", "negative_prompt": "stream3", "stream": True}
    answer = client.post(body, headers={"Cache-Control": "only-if-cached"})
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "not_cached"


def test_what_fails_later_is_the_last_event(client: Client) -> None:
    """A state after one of two steps saves none of one step: the engine has to start in full after all."""
    wish = {"prompt": "a cube of one step", "negative_prompt": "stream4"}
    client.draw(**wish, num_inference_steps=2)
    client.settle()
    events = _stream(client, {"Cache-Control": "only-if-cached"}, **wish, num_inference_steps=1)
    assert [name for name, _ in events] == ["error"]
    assert set(events[0][1]["error"]) == {"message", "type", "param", "code"}
    assert events[0][1]["error"]["code"] == "not_cached"
    assert "cube" not in str(events[0][1])


@pytest.mark.parametrize("wanted", [0, 1])
def test_hanging_up_cancels_the_picture(client: Client, wanted: int) -> None:
    before = client.metric("headstart_cancelled_total", where="denoise")
    body = {"prompt": "an unwanted cube", "num_inference_steps": 200, "stream": True, "partial_images": wanted, **OFF}
    with client.http.stream("POST", ROUTE, json=body) as answer:
        assert answer.status_code == 200
        client.server.wait(lambda: client.metric("headstart_active_jobs") > 0, "drawing")
    client.server.wait(lambda: client.metric("headstart_cancelled_total", where="denoise") > before, "cancelled")
    client.server.wait(lambda: client.metric("headstart_active_jobs") == 0, "idle")
    assert client.metric("headstart_pictures_in_work") == 0


def test_a_stream_is_counted_like_any_request(client: Client) -> None:
    counted = {"route": ROUTE, "status": "200", "cache": "MISS"}
    before = client.metric("headstart_requests_total", **counted)
    timed = client.metric("headstart_request_duration_seconds_count", cache="MISS")
    _stream(client, prompt="a counted cube", negative_prompt="stream5")
    client.server.wait(lambda: client.metric("headstart_requests_total", **counted) == before + 1, "counted")
    assert client.metric("headstart_request_duration_seconds_count", cache="MISS") == timed + 1


def test_the_stream_is_described(client: Client) -> None:
    document = client.http.get("/openapi.json").json()
    content = document["paths"][ROUTE]["post"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/event-stream"}
    schema = content["text/event-stream"]["schema"]
    assert set(schema["discriminator"]["mapping"]) == {PARTIAL, COMPLETED}
    parts = document["components"]["schemas"]
    described = [parts[choice["$ref"].rpartition("/")[2]] for choice in schema["oneOf"]]
    assert "partial_image_index" in described[0]["required"]
    assert {"type", "usage", "cache", "timings", "created_at"} <= set(described[1]["required"])
    wish = parts["GenerationBody"]["properties"]["partial_images"]
    assert {"maximum": 3, "minimum": 0, "type": "integer"} in wish["anyOf"]
    _assert_complete(document, parts)


def _assert_complete(node: Any, parts: dict[str, Any]) -> None:
    if isinstance(node, dict):
        assert "$ref" not in node or node["$ref"].rpartition("/")[2] in parts
        for value in node.values():
            _assert_complete(value, parts)
    elif isinstance(node, list):
        for value in node:
            _assert_complete(value, parts)


@pytest.mark.parametrize("wanted", [1, 2, 3, 10])
def test_previews_are_spread_over_the_steps_that_run(wanted: int) -> None:
    for steps in (1, 2, 4, 5, 8, 9, 28, 50, 200):
        for first in range(steps):
            every = preview_every(first, steps, wanted)
            shown = shown_steps(first, steps, every, wanted) if every else []
            assert len(shown) == min(wanted, steps - first - 1)
            shares = [first + index * (steps - first) / (wanted + 1) for index in range(1, wanted + 1)]
            if len(shown) == wanted:
                assert all(0 <= step - share < every for step, share in zip(shown, shares, strict=True))


def _run(previews: Previews, first: int, every: int, steps: int = 50, stop: int = 50) -> list[int]:
    """The steps that were shown of a run that enters at `first` and is broken off at `stop`."""
    picture = np.zeros((2, 2, 3), np.uint8)
    events = [
        Progress("a", step, steps, first, picture if step % every == 0 and first < step < steps else None)
        for step in range(first, stop + 1)
    ]
    return [event.step for event in map(previews.screen, events) if event.preview is not None]


def test_a_refused_state_does_not_bring_more_previews() -> None:
    every = preview_every(30, 50, 3)
    assert len(_run(Previews(3), 0, every)) == 3


def test_a_run_that_starts_again_shows_nothing_twice() -> None:
    previews = Previews(3)
    assert _run(previews, 0, 13, stop=30) == [13, 26]
    assert _run(previews, 0, 13) == [39]


def test_only_jobs_are_paced() -> None:
    full = plan()
    assert full.job is not None
    paced_job = paced(full, 3).job
    assert paced_job is not None
    assert paced_job.preview_every == 2
    assert paced(full, 0) is full
    exact = replace(full, job=None)
    assert paced(exact, 3) is exact


async def test_streams_share_the_engine(client: Client) -> None:
    body = {"prompt": "a cube among others", "stream": True, "partial_images": 1, **OFF}
    async with (
        httpx.AsyncClient(base_url=client.server.url, timeout=120) as http,
        http.stream("POST", ROUTE, json=body) as one,
        http.stream("POST", ROUTE, json=body) as other,
    ):
        for answer in (one, other):
            lines = [line async for line in answer.aiter_lines() if line.startswith("event: ")]
            assert lines == [f"event: {PARTIAL}", f"event: {COMPLETED}"]
