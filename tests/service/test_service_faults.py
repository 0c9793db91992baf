"""One service through everything that can happen to it: Redis and engine killed, restarts, flipped bytes."""

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from service_live import PATIENCE_SECONDS, Client, LiveServer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="module")
def faulty(tiny_model: Path, tables: Path, folder: Path) -> Iterator[LiveServer]:
    """A server of its own, with little patience and a small queue."""
    server = LiveServer(
        folder,
        model=str(tiny_model),
        matching_table=str(tables / "loose.json"),
        threads="1",
        queue_limit="6",
        ram_bytes="0",
        drain_seconds="120",
    ).start()
    yield server
    server.stop()


@pytest.fixture
def client(faulty: LiveServer) -> Iterator[Client]:
    client = Client(faulty)
    yield client
    client.http.close()


def _children(server: LiveServer, name: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        if name in " ".join(process.cmdline()):
            found.append(process)
    return found


def _post_aside(client: Client, answers: list[httpx.Response], **fields: Any) -> threading.Thread:
    body = {"prompt": "a slow cube", "cache": {"mode": "off"}, **fields}

    def post() -> None:
        answers.append(httpx.post(f"{client.server.url}/v1/images/generations", json=body, timeout=PATIENCE_SECONDS))

    thread = threading.Thread(target=post)
    thread.start()
    return thread


def test_a_killed_engine_costs_time_not_requests(client: Client) -> None:
    restarts = client.metric("headstart_engine_restarts_total")
    reference = client.draw("a slow cube", num_inference_steps=100, seed=5, cache={"mode": "off"})
    answers: list[httpx.Response] = []
    drawing = _post_aside(client, answers, num_inference_steps=100, seed=5)
    client.server.wait(lambda: client.metric("headstart_active_jobs") > 0, "drawing")
    for process in _children(client.server, "service.engine.child"):
        os.kill(process.pid, signal.SIGKILL)
    drawing.join(PATIENCE_SECONDS)
    assert answers[0].status_code == 200, answers[0].text
    assert answers[0].json()["data"][0]["b64_json"] == reference["b64_json"]
    assert client.metric("headstart_engine_restarts_total") == restarts + 1
    assert client.http.get("/readyz").status_code == 200


def test_a_full_queue_says_when_to_come_back(client: Client) -> None:
    answers: list[httpx.Response] = []
    threads = [_post_aside(client, answers, num_inference_steps=100, n=3) for _ in range(2)]
    client.server.wait(lambda: client.metric("headstart_pictures_in_work") == 6, "full")
    for path in ("/v1/images/generations", "/v1/generations/events"):
        refused = client.http.post(path, json={"prompt": "one cube too many"})
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-should-retry"] == "true"
        assert refused.json()["error"]["code"] == "queue_full"
    assert client.metric("headstart_rejected_total", reason="queue_full") == 2
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert [answer.status_code for answer in answers] == [200, 200]


def test_redis_killed_means_full_runs_until_it_is_back(client: Client) -> None:
    client.draw("a cube in trouble", negative_prompt="faults1")
    client.settle()
    for process in _children(client.server, "redis-server"):
        process.kill()
    during = client.draw("a cube in trouble", negative_prompt="faults1")
    assert during["cache"]["verdict"] == "MISS"
    assert during["cache"]["reason"] == "cache-unavailable"
    assert client.draw("a cube in trouble", negative_prompt="faults1", seed=4)["cache"]["verdict"] == "MISS"
    assert client.http.get("/readyz").status_code == 200

    def hits_again() -> bool:
        return bool(client.cache("a cube in trouble", negative_prompt="faults1")["verdict"] == "APPROX")

    client.server.wait(hits_again, "hitting again")


def test_a_stop_lets_running_requests_finish_and_a_restart_keeps_the_cache(client: Client) -> None:
    client.draw("a lasting cube", negative_prompt="faults2", seed=8)
    client.settle()
    answers: list[httpx.Response] = []
    drawing = _post_aside(client, answers, num_inference_steps=60)
    client.server.wait(lambda: client.metric("headstart_active_jobs") > 0, "drawing")
    assert client.server.stop() == 0
    drawing.join(PATIENCE_SECONDS)
    assert answers[0].status_code == 200
    client.server.start()
    assert client.cache("a lasting cube", negative_prompt="faults2")["verdict"] == "APPROX"
    assert client.cache("a lasting cube", negative_prompt="faults2", seed=8)["verdict"] == "EXACT"


def test_flipped_bytes_never_make_a_picture(client: Client) -> None:
    client.draw("a damaged cube", negative_prompt="faults3", seed=2)
    client.settle()
    for path in (client.server.data_dir / "objects").rglob("*"):
        if path.is_file():
            _flip(path)
    verdict = client.cache("a damaged cube", negative_prompt="faults3")
    assert (verdict["verdict"], verdict["reason"]) == ("MISS", "state-unreadable")
    exact = client.cache("a damaged cube", negative_prompt="faults3", seed=2)
    assert exact["verdict"] == "MISS"
    assert client.metric("headstart_cache_corrupt_states_total") > 0
    client.settle()
    assert client.cache("a damaged cube", negative_prompt="faults3")["verdict"] == "APPROX"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def test_nothing_is_left_behind(faulty: LiveServer, folder: Path) -> None:
    children = psutil.Process(faulty.pid).children(recursive=True)
    faulty.stop()
    gone, alive = psutil.wait_procs(children, timeout=10)
    assert not alive
    assert gone
    assert "Traceback" not in faulty.log.read_text()
    assert all(json.loads(line) for line in faulty.log.read_text().splitlines())
