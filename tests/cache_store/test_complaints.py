"""Errors that come by the thousand are a line a minute."""

import asyncio
import logging

import pytest
from redis.exceptions import ResponseError

from cache_store import CacheStore, complaints
from cache_store.complaints import Complaints
from cache_store.link import _shown
from cache_store.types import CacheUnavailable


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(complaints, "time", clock)
    return clock


def _lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    caplog.clear()
    return lines


def test_repeats_are_counted_and_told_once_a_period(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    found = Complaints(logging.getLogger("complaints"), 60.0)
    for text in ("full", "full", "other", "full"):
        found.note(text)
    found.tell()
    assert _lines(caplog) == ["full", "other"]
    clock.now += 61
    found.tell()
    found.tell()
    assert _lines(caplog) == ["full (2 times more in 61 s)"]
    found.note("full")
    found.note("other")  # nothing came for a period: it is new again
    assert _lines(caplog) == ["other"]
    clock.now += 61
    found.tell()
    assert _lines(caplog) == ["full (1 times more in 61 s)"]
    clock.now += 61
    found.tell()
    found.note("full")
    assert _lines(caplog) == ["full"]


def test_texts_that_are_never_the_same_are_bounded_too(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    found = Complaints(logging.getLogger("complaints"), 60.0)
    for number in range(1000):
        found.note(f"fault {number}")
    assert len(_lines(caplog)) == complaints._MOST + 1
    clock.now += 61
    found.tell()
    assert _lines(caplog) == [f"fault 999 ({1000 - complaints._MOST - 1} times more in 61 s)"]


@pytest.mark.parametrize(
    "said",
    [
        "MISCONF Errors writing to the AOF file: No space left on device script: f_0a1b, on @user_script: 12.",
        "Command # 2 (SET key a prompt) of pipeline caused error: MISCONF Errors writing to the AOF file: No space "
        "left on device",
        "MISCONF Errors writing to the AOF file: No space left on device\nmore",
        "MISCONF Errors writing to the AOF file: No space left on device`a prompt`",
    ],
)
def test_what_redis_says_is_shown_without_what_it_was_told(said: str) -> None:
    assert _shown(ResponseError(said)) == "MISCONF Errors writing to the AOF file: No space left on device"


async def test_a_redis_that_refuses_everything_is_one_line(
    store: CacheStore, caplog: pytest.LogCaptureFixture
) -> None:
    link = store._link
    async with link.guard(asyncio.get_running_loop().time() + 30):
        await link.call("CONFIG", "SET", "maxmemory", 1)
    for number in range(20):
        with pytest.raises(CacheUnavailable):
            async with link.guard(asyncio.get_running_loop().time() + 30):
                await link.call("SET", f"some key {number}", "x")
    async with link.guard(asyncio.get_running_loop().time() + 30):
        await link.call("CONFIG", "SET", "maxmemory", 0)
    assert link.available
    refusals = [line for line in _lines(caplog) if line.startswith("redis refused")]
    assert len(refusals) == 1
