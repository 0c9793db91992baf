"""The same key: the same answer, or a clear no."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_live import Client, live

KEY = "Idempotency-Key"


def _draw(client: Client, key: str, **fields: Any) -> httpx.Response:
    return client.post({"prompt": "a cube drawn once", "num_inference_steps": 2, **fields}, headers={KEY: key})


def test_the_same_request_is_answered_once(client: Client) -> None:
    drawn = client.metric("headstart_denoise_steps_total")
    first, again = (
        _draw(client, "once-1", negative_prompt="once1"),
        _draw(client, '"once-1"', negative_prompt="once1"),
    )
    assert (first.status_code, first.headers["idempotency-status"]) == (200, "stored")
    assert (again.status_code, again.headers["idempotency-status"]) == (200, "replayed")
    assert again.content == first.content
    same = ("cache-status", "x-headstart-generation", "content-type", "x-total-time")
    assert [again.headers[name] for name in same] == [first.headers[name] for name in same]
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert client.metric("headstart_denoise_steps_total") == drawn + 2


def test_how_a_body_is_spelled_plays_no_part(client: Client) -> None:
    one = b'{"prompt": "spelled", "n": 1, "num_inference_steps": 2}'
    bodies = (one, b'{"num_inference_steps":2,"n":1,"prompt":"spelled"}')
    headers = {KEY: "once-2", "Content-Type": "application/json"}
    first, again = (client.http.post("/v1/images/generations", content=body, headers=headers) for body in bodies)
    assert again.content == first.content


def test_another_request_under_the_key_is_refused(client: Client) -> None:
    assert _draw(client, "once-3").status_code == 200
    other = _draw(client, "once-3", n=2)
    assert (other.status_code, other.headers["x-should-retry"]) == (422, "false")
    assert other.json()["error"]["code"] == "idempotency_key_reuse"
    elsewhere = client.http.post("/v1/jobs", json={"prompt": "a cube drawn once"}, headers={KEY: "once-3"})
    assert elsewhere.status_code == 422


def test_while_the_first_runs_a_second_is_told_to_wait(client: Client) -> None:
    long = {"num_inference_steps": 60, "n": 2, "cache": {"mode": "off"}}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(_draw, client, "once-4", **long)
        client.server.wait(lambda: client.metric("headstart_pictures_in_work") >= 2, "begun")
        second = _draw(client, "once-4", **long)
        assert (second.status_code, second.headers["x-should-retry"]) == (409, "true")
        assert second.headers["retry-after"] == "1"
        assert second.json()["error"]["code"] == "idempotency_in_progress"
        assert running.result().status_code == 200
    assert _draw(client, "once-4", **long).headers["idempotency-status"] == "replayed"


def test_a_failure_gives_the_key_back(client: Client) -> None:
    headers = {KEY: "once-5", "Cache-Control": "only-if-cached"}
    body = {"prompt": "a cube drawn once", "negative_prompt": "once5", "num_inference_steps": 2}
    assert client.post(body, headers=headers).status_code == 504
    assert client.post(body, headers={KEY: "once-5"}).headers["idempotency-status"] == "stored"


def test_a_client_that_hangs_up_gives_it_back_too(client: Client) -> None:
    body = {"prompt": "a cube drawn once", "num_inference_steps": 200, "n": 4, "cache": {"mode": "off"}}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{client.server.url}/v1/images/generations", json=body, headers={KEY: "once-6"}, timeout=0.5)
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") == 0, "idle")
    client.server.wait(lambda: _draw(client, "once-6").status_code == 200, "given back")


def test_a_job_is_taken_once(client: Client) -> None:
    body = {"prompt": "a job taken once", "num_inference_steps": 2}
    first, again = (client.http.post("/v1/jobs", json=body, headers={KEY: "once-7"}) for _ in range(2))
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["location"] == first.headers["location"]


@pytest.mark.parametrize("key", ["", "x" * 256, "a\tb", "é", '""', '"'], ids=ascii)
def test_what_is_no_key(client: Client, key: str) -> None:
    headers = [("Idempotency-Key", key.encode("latin-1"))]
    answer = client.http.post("/v1/images/generations", json={"prompt": "a", "n": 1}, headers=headers)
    if not key:  # an empty header is none
        assert "idempotency-status" not in answer.headers
        return
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "idempotency-key"


def test_a_stream_cannot_be_repeated(client: Client) -> None:
    answer = _draw(client, "once-8", stream=True)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "idempotency-key")


def test_without_the_catalogue_it_is_served_and_says_so(resuming_model: Path, tmp_path: Path) -> None:
    with live(tmp_path, model=str(resuming_model), threads="1", redis_url="redis://127.0.0.1:1/0") as server:
        client = Client(server)
        for _ in range(2):
            answer = _draw(client, "once-9", response_format="url")
            assert (answer.status_code, answer.headers["idempotency-status"]) == (200, "unavailable")
            assert answer.json()["data"][0]["url"].startswith("data:image/png;base64,")
        job = client.http.post("/v1/jobs", json={"prompt": "kept here", "num_inference_steps": 2}).json()
        path = f"/v1/jobs/{job['id']}"
        server.wait(lambda: client.http.get(path).json()["status"] == "succeeded", "drawn")
        assert client.http.get(path).json()["result"]["data"][0]["url"].startswith("data:image/png")
        missing = client.http.get(f"/v1/jobs/{'0' * 32}")
        assert (missing.status_code, missing.headers["retry-after"]) == (503, "2")
        client.http.close()
