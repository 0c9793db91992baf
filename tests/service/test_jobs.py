"""Jobs: taken, watched, cancelled, fetched later, and in a known state whatever becomes of the service."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from service_live import Client, LiveServer, live, parse_events

OFF = {"cache": {"mode": "off"}}
LONG = {"prompt": "a job for hours", "num_inference_steps": 200, "n": 4, **OFF}


def _submit(client: Client, headers: dict[str, str] | None = None, **fields: object) -> dict[str, Any]:
    body = {"prompt": "a cube for later", "num_inference_steps": 2, **fields}
    answer = client.http.post("/v1/jobs", json=body, headers=headers)
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    assert answer.headers["location"] == f"/v1/jobs/{job['id']}"
    return job


def _job(client: Client, job_id: str) -> dict[str, Any]:
    answer = client.http.get(f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _ended(client: Client, job_id: str) -> dict[str, Any]:
    final = ("succeeded", "failed", "cancelled")
    client.server.wait(lambda: _job(client, job_id)["status"] in final, "ended")
    return _job(client, job_id)


def _idle(client: Client) -> None:
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") == 0, "idle")


def test_a_job_is_drawn_and_its_pictures_fetched(client: Client) -> None:
    job = _submit(client, n=2, negative_prompt="jobs1")
    assert job["status"] == "queued"
    assert job["result"] is None
    done = _ended(client, job["id"])
    assert done["status"] == "succeeded", done
    assert done["created"] <= done["started"] <= done["finished"] < done["expires"]
    assert [picture["step"] for picture in done["progress"]] == [2, 2]
    items = done["result"]["data"]
    assert [item["b64_json"] for item in items] == [None, None]
    for item in items:
        with Image.open(io.BytesIO(client.http.get(item["url"]).content)) as picture:
            assert picture.size == (32, 32)
    assert len({item["seed"] for item in items}) == 2


def test_a_job_may_carry_its_pictures(client: Client) -> None:
    done = _ended(client, _submit(client, response_format="b64_json", output_format="webp")["id"])
    (item,) = done["result"]["data"]
    assert item["url"] is None
    with Image.open(io.BytesIO(base64.b64decode(item["b64_json"]))) as picture:
        assert picture.format == "WEBP"


def test_no_prompt_is_kept_with_a_job(client: Client) -> None:
    wish = {"prompt": "a remembered secret", "negative_prompt": "jobs2", "num_inference_steps": 8}
    client.draw(**wish)
    client.settle()
    done = _ended(client, _submit(client, **wish)["id"])
    (item,) = done["result"]["data"]
    assert item["cache"]["verdict"] == "APPROX"
    assert item["cache"]["source"]["id"]
    assert "secret" not in json.dumps(done)


def test_prefer_respond_async_makes_a_job_of_a_generation(client: Client) -> None:
    body = {"prompt": "a cube, some time", "num_inference_steps": 2}
    answer = client.post(body, headers={"Prefer": "wait=5, respond-async"})
    assert answer.status_code == 202
    assert answer.headers["preference-applied"] == "respond-async"
    assert answer.headers["location"] == f"/v1/jobs/{answer.json()['id']}"
    assert _ended(client, answer.json()["id"])["status"] == "succeeded"
    assert client.post(body, headers={"Prefer": "handling=strict"}).status_code == 200


def test_a_failure_says_why(client: Client) -> None:
    body = {"prompt": "a cube nobody has drawn", "negative_prompt": "jobs3"}
    job = _submit(client, headers={"Cache-Control": "only-if-cached"}, **body)
    done = _ended(client, job["id"])
    assert (done["status"], done["error"]["code"]) == ("failed", "not_cached")
    assert done["result"] is None
    _idle(client)


def test_cancelling_takes_effect_and_may_be_repeated(client: Client) -> None:
    job = _submit(client, **LONG)
    path = f"/v1/jobs/{job['id']}/cancel"
    client.server.wait(lambda: _job(client, job["id"])["status"] == "in_progress", "begun")
    cancelled = client.http.post(path).json()
    assert (cancelled["status"], cancelled["result"], cancelled["error"]) == ("cancelled", None, None)
    _idle(client)
    assert client.http.post(path).json()["version"] == cancelled["version"]
    assert _job(client, job["id"])["status"] == "cancelled"


def test_deleting_ends_a_job_and_forgets_its_pictures(client: Client) -> None:
    running = _submit(client, **LONG)
    done = _ended(client, _submit(client)["id"])
    url = done["result"]["data"][0]["url"]
    assert client.http.get(url).status_code == 200
    for job_id in (running["id"], done["id"]):
        assert client.http.delete(f"/v1/jobs/{job_id}").json()["deleted"] is True
        assert client.http.get(f"/v1/jobs/{job_id}").status_code == 404
        assert client.http.delete(f"/v1/jobs/{job_id}").status_code == 404
    assert client.http.get(url).status_code == 404
    _idle(client)


def test_lists_are_pages_newest_first(client: Client) -> None:
    made = [_submit(client, num_inference_steps=1)["id"] for _ in range(3)]
    for job_id in made:
        _ended(client, job_id)
    first = client.http.get("/v1/jobs", params={"limit": 2}).json()
    assert [job["id"] for job in first["data"]] == made[:0:-1]
    assert first["has_more"]
    assert all(job["result"] is None for job in first["data"])
    second = client.http.get("/v1/jobs", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    assert [job["id"] for job in second["data"]] == made[:1]
    wanted = client.http.get("/v1/jobs", params={"limit": 3, "status": "failed"}).json()["data"]
    assert not {job["id"] for job in wanted} & set(made)


def test_those_who_wait_know_their_place(client: Client) -> None:
    jobs = [_submit(client, **{**LONG, "num_inference_steps": 60})["id"] for _ in range(3)]
    client.server.wait(lambda: _job(client, jobs[0])["status"] == "in_progress", "begun")
    client.server.wait(lambda: _job(client, jobs[2])["queue_position"] is not None, "placed")
    places = [_job(client, job_id)["queue_position"] for job_id in jobs]
    assert places[0] is None
    assert places[2] >= 1
    for job_id in jobs:
        client.http.delete(f"/v1/jobs/{job_id}")
    _idle(client)


def test_a_full_queue_takes_no_job(client: Client) -> None:
    jobs = []
    while (answer := client.http.post("/v1/jobs", json=LONG)).status_code == 202:
        jobs.append(answer.json()["id"])
        assert len(jobs) <= 16
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) >= 1
    for job_id in jobs:
        client.http.delete(f"/v1/jobs/{job_id}")
    _idle(client)


def _watch(client: Client, job_id: str, **headers: str) -> list[tuple[str, dict[str, Any]]]:
    with client.http.stream("GET", f"/v1/jobs/{job_id}/events", headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        assert answer.headers["content-type"].startswith("text/event-stream")
        return list(parse_events(answer.iter_lines()))


def test_events_are_whole_snapshots_with_previews(client: Client) -> None:
    job = _submit(client, num_inference_steps=40, partial_images=3, **OFF)
    events = _watch(client, job["id"])
    snapshots = [data for name, data in events if name == "job"]
    assert {frozenset(one) for one in snapshots} == {frozenset(_job(client, job["id"]))}
    assert [one["version"] for one in snapshots] == sorted({one["version"] for one in snapshots})
    assert snapshots[-1]["status"] == "succeeded"
    previews = [data for name, data in events if name == "preview"]
    assert 1 <= len(previews) <= 3
    with Image.open(io.BytesIO(base64.b64decode(previews[0]["b64_json"]))) as picture:
        assert picture.size == (32, 32)


def test_watching_goes_on_where_it_ended(client: Client) -> None:
    job = _submit(client, num_inference_steps=2)
    done = _ended(client, job["id"])
    assert [data["version"] for _, data in _watch(client, job["id"])] == [done["version"]]
    older = _watch(client, job["id"], **{"Last-Event-ID": str(done["version"] - 1)})
    assert [data["version"] for _, data in older] == [done["version"]]
    end = client.http.get(f"/v1/jobs/{job['id']}/events", headers={"Last-Event-ID": str(done["version"])})
    assert (end.status_code, end.content) == (204, b"")
    strange = _watch(client, job["id"], **{"Last-Event-ID": "../x"})
    assert len(strange) == 1


def test_a_job_outlives_those_who_watch_it(client: Client) -> None:
    job = _submit(client, num_inference_steps=60, **OFF)
    with client.http.stream("GET", f"/v1/jobs/{job['id']}/events") as answer:
        next(parse_events(answer.iter_lines()))
    assert _ended(client, job["id"])["status"] == "succeeded"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_unknown_jobs_are_not_found(client: Client, method: str) -> None:
    assert client.http.request(method, f"/v1/jobs/{'0' * 32}").status_code == 404
    assert client.http.request(method, "/v1/jobs/..%2f..%2fetc").status_code in (400, 404)
    assert client.http.request(method, "/v1/jobs/XYZ").status_code == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"stream": True}, "stream"),
        ({"partial_images": 11}, "partial_images"),
        ({"n": 11}, "n"),
        ({"webhook": "http://x"}, "webhook"),
        ({"webhook": {"url": "https://example.com/x"}}, "webhook"),
        ({"webhook": {"url": 1}}, "webhook.url"),
        ({"webhook": {"url": "https://example.com", "secret": "s"}}, "webhook.secret"),
        ({"tenant": "other"}, "tenant"),
    ],
)
def test_wrong_fields_are_named(client: Client, fields: dict[str, Any], param: str) -> None:
    answer = client.http.post("/v1/jobs", json={"prompt": "a", **fields})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["param"] == param


@pytest.fixture(scope="module")
def restarted(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("restarted")
    with live(folder, model=str(resuming_model), threads="1", drain_seconds="1") as server:
        yield server


def test_jobs_are_in_a_known_state_after_a_stop_and_after_a_crash(restarted: LiveServer) -> None:
    client = Client(restarted)
    with client.http as http:
        done = _ended(client, _submit(client)["id"])
        client.server.wait(lambda: bool(http.get("/v1/jobs").json()["data"]), "saved")
        cut_off = _submit(client, **LONG)
        assert restarted.stop() == 0
        restarted.start()
        kept = _job(client, done["id"])
        assert kept["status"] == "succeeded"
        assert http.get(kept["result"]["data"][0]["url"].replace(restarted.url, "")).status_code == 200
        after_stop = _job(client, cut_off["id"])
        assert (after_stop["status"], after_stop["error"]["code"]) == ("failed", "interrupted")
        crashed = _submit(client, **LONG)
        # The catalogue's file is written every second.
        restarted.wait(lambda: _job(client, crashed["id"])["version"] > 12, "on its way")
        restarted.kill()
        restarted.start()
        assert (_ended(client, crashed["id"])["error"] or {}).get("code") == "interrupted"
        assert client.metric("headstart_pictures_in_work") == 0
