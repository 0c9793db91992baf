"""A busy service says no early, says when to come back, and keeps its word."""

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from service_live import Client, LiveServer, live

OFF = {"cache": {"mode": "off"}}
STEPS = 60


@pytest.fixture(scope="module")
def busy(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service with an objective of 3 times alone, one picture at a time in the loop, and a quota for one tenant."""
    folder = tmp_path_factory.mktemp("busy")
    with live(folder, model=str(resuming_model), threads="1", max_batch="1", slo_factor="3") as running:
        yield running


@pytest.fixture(scope="module")
def measured(busy: LiveServer) -> Iterator[Client]:
    """Its client, once the service knows what a picture takes."""
    client = Client(busy)
    for index in range(3):
        client.draw(f"a warm cube {index}", num_inference_steps=STEPS, **OFF)
    yield client
    client.http.close()


def crowd(client: Client, count: int, **fields: object) -> list[httpx.Response]:
    """Send many at once."""

    def one(index: int) -> httpx.Response:
        return client.post({"prompt": f"a crowded cube {index}", "num_inference_steps": STEPS, **OFF, **fields})

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def test_a_crowd_is_refused_beyond_what_can_be_in_time(measured: Client) -> None:
    answers = crowd(measured, 12)
    refused = [answer for answer in answers if answer.status_code == 429]
    assert {answer.status_code for answer in answers} == {200, 429}
    for answer in refused:
        error = answer.json()["error"]
        assert (error["type"], error["code"], error["param"]) == ("rate_limit_error", "overloaded", None)
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.headers["x-should-retry"] == "true"
    assert measured.metric("headstart_rejected_total", reason="late") == len(refused)


def test_who_keeps_coming_back_when_told_is_let_in(measured: Client) -> None:
    def persistent(index: int) -> list[int]:
        statuses = []
        for _ in range(6):
            answer = measured.post({"prompt": f"a patient cube {index}", "num_inference_steps": STEPS, **OFF})
            statuses.append(answer.status_code)
            if answer.status_code == 200:
                break
            time.sleep(int(answer.headers["Retry-After"]))
        return statuses

    with ThreadPoolExecutor(8) as pool:
        ways = list(pool.map(persistent, range(8)))
    assert all(way[-1] == 200 for way in ways), ways
    assert any(len(way) > 1 for way in ways)


@contextmanager
def held_up(client: Client) -> Iterator[None]:
    """Keep the only place in the loop for long."""
    body = {"prompt": "a long cube", "num_inference_steps": 200, **OFF}
    holder = threading.Thread(target=client.post, args=(body,))
    holder.start()
    client.server.wait(lambda: _inside(client) >= 1, "busy")
    try:
        yield
    finally:
        holder.join()


def test_a_stream_is_refused_with_a_status_too(measured: Client) -> None:
    body = {"prompt": "a watched cube", "num_inference_steps": 10, **OFF}
    ways = (("/v1/generations/events", {}), ("/v1/images/generations", {"stream": True}))
    with held_up(measured):
        statuses = {measured.http.post(path, json=body | extra).status_code for path, extra in ways}
    assert statuses == {429}


def _inside(client: Client) -> float:
    return client.metric("headstart_pictures_in_work")


def test_predictions_are_compared_with_what_came_true(measured: Client) -> None:
    assert measured.metric("headstart_finish_over_predicted_count") > 0
    assert measured.metric("headstart_returned_total", outcome="admitted") > 0


def test_a_repeat_is_answered_however_busy_it_is(measured: Client) -> None:
    wish = {"prompt": "a kept cube", "num_inference_steps": 4, "seed": 5}
    measured.draw(**wish)
    measured.settle()
    with held_up(measured):
        answer = measured.post(wish)
        assert answer.status_code == 200
        assert answer.json()["data"][0]["cache"]["verdict"] == "EXACT"
        refused = measured.post({"prompt": "a new cube", "num_inference_steps": 4, **OFF})
    assert refused.status_code == 429
