import base64
import io

import httpx
import pytest
from PIL import Image
from service_live import Client, parse_events


def test_a_miss_is_watched_from_start_to_end(client: Client) -> None:
    events = client.events({"prompt": "a watched cube", "negative_prompt": "events1"})
    names = [name for name, _ in events]
    assert names[:2] == ["queued", "plan"]
    assert names[-1] == "completed"
    assert set(names[2:-1]) == {"progress"}
    plan = events[1][1]
    assert (plan["verdict"], plan["first_step"], plan["steps"], plan["source"]) == ("MISS", 0, 8, None)
    steps = [data["step"] for name, data in events if name == "progress"]
    assert steps == sorted(steps)
    assert steps[-1] == 8
    done = events[-1][1]
    assert done["cache"]["verdict"] == "MISS"
    assert (done["size"], done["output_format"]) == ("32x32", "png")
    with Image.open(io.BytesIO(base64.b64decode(done["b64_json"]))) as picture:
        assert picture.size == (32, 32)


def test_an_approximate_hit_tells_its_source_beforehand(client: Client) -> None:
    client.draw("a cube seen twice", negative_prompt="events2")
    client.settle()
    events = client.events({"prompt": "a cube seen twice", "negative_prompt": "events2"})
    plan = events[1][1]
    assert (plan["verdict"], plan["first_step"], plan["similarity"]) == ("APPROX", 4, 1.0)
    assert plan["source"]["prompt"] == "a cube seen twice"
    progress = [data for name, data in events if name == "progress"]
    assert all(data["first_step"] == 4 for data in progress)
    assert events[-1][1]["cache"]["skipped_steps"] == 4


def test_an_exact_hit_needs_no_progress(client: Client) -> None:
    wish = {"prompt": "a cube kept", "negative_prompt": "events3", "seed": 6}
    client.events(wish)
    client.settle()
    events = client.events(wish)
    assert [name for name, _ in events] == ["queued", "plan", "completed"]
    assert (events[1][1]["verdict"], events[1][1]["first_step"]) == ("EXACT", 8)


def test_previews_are_pictures_and_may_be_declined(client: Client) -> None:
    wish = {"prompt": "a previewed cube", "cache": {"mode": "off"}}
    shown = [data["preview_b64"] for _, data in client.events({**wish, "partial_images": 3}) if "preview_b64" in data]
    assert 2 <= len(shown) <= 4
    with Image.open(io.BytesIO(base64.b64decode(shown[0]))) as picture:
        assert picture.size == (32, 32)
    assert not [1 for _, data in client.events({**wish, "partial_images": 0}) if "preview_b64" in data]


def test_what_fails_before_the_start_has_a_status(client: Client) -> None:
    body = {"prompt": "a cube nobody drew", "negative_prompt": "events4"}
    answer = client.http.post("/v1/generations/events", json=body, headers={"Cache-Control": "only-if-cached"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "not_cached")


def test_an_error_after_the_start_is_an_event(client: Client) -> None:
    """A state after one of two steps saves none of one step: the engine has to start in full after all."""
    wish = {"prompt": "a cube of one step", "negative_prompt": "events5"}
    client.draw(**wish, num_inference_steps=2)
    client.settle()
    body = {**wish, "num_inference_steps": 1}
    headers = {"Cache-Control": "only-if-cached"}
    with client.http.stream("POST", "/v1/generations/events", json=body, headers=headers) as answer:
        events = list(parse_events(answer.iter_lines()))
    assert [name for name, _ in events] == ["queued", "plan", "error"]
    assert events[-1][1]["error"]["code"] == "not_cached"


def test_hanging_up_a_stream_cancels_the_picture(client: Client) -> None:
    before = client.metric("headstart_cancelled_total", where="denoise")
    body = {"prompt": "a cube nobody waits for", "num_inference_steps": 200, "cache": {"mode": "off"}}
    with client.http.stream("POST", "/v1/generations/events", json=body) as answer:
        events = parse_events(answer.iter_lines())
        while next(events)[0] != "progress":
            pass
    client.server.wait(lambda: client.metric("headstart_cancelled_total", where="denoise") > before, "cancelled")
    client.server.wait(lambda: client.metric("headstart_active_jobs") == 0, "idle")


def test_hanging_up_a_plain_request_cancels_the_picture(client: Client) -> None:
    before = client.metric("headstart_cancelled_total", where="denoise")
    body = {"prompt": "a cube nobody waits for", "num_inference_steps": 200, "n": 4, "cache": {"mode": "off"}}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{client.server.url}/v1/images/generations", json=body, timeout=0.5)
    client.server.wait(lambda: client.metric("headstart_cancelled_total", where="denoise") == before + 4, "cancelled")
    client.server.wait(lambda: client.metric("headstart_active_jobs") == 0, "idle")
    assert client.metric("headstart_pictures_in_work") == 0
