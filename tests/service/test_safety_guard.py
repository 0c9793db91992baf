"""What stands between a checker and the answers: which verdicts are believed, and what a slow or hung one costs."""

import asyncio
import contextlib
import threading
import time
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray

from cache_store.store import CacheStore
from cache_store.types import StoredImage
from service.metrics import Metrics
from service.pictures import encode
from service.safety import (
    CheckerBehindError,
    Guard,
    PictureFlaggedError,
    PictureUncheckedError,
    SafetyChecker,
    SafetyVerdict,
)
from service.safety.backlog import seconds_until_room
from service.safety.worker import MOST_LOST

PIXELS = np.zeros((4, 4, 3), np.uint8)


def _guard(checker: SafetyChecker, patience: float = 60.0) -> Guard:
    return Guard(checker, Metrics().safety, patience=patience)


class Hanging:
    """Answers when it is let."""

    version = "h"

    def __init__(self, only: str | None = None) -> None:
        self.let = threading.Event()
        self.inside = 0
        self._only = only

    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        self.inside += 1
        if self._only in (None, prompt):
            self.let.wait()
        return SafetyVerdict(False, "h")


class Slow:
    """Takes its time."""

    version = "s"

    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        time.sleep(0.2)
        return SafetyVerdict(False, "s")


class Forbidding:
    """Judges by the prompt alone."""

    version = "f"

    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        return SafetyVerdict(prompt == "forbidden", "f")


async def test_a_checker_that_hangs_holds_back_pictures_and_nothing_else() -> None:
    checker, picture = Hanging(), np.zeros((4, 4, 3), np.uint8)
    guard = _guard(checker, patience=0.1)
    for _ in range(2):
        with pytest.raises(PictureUncheckedError):
            await guard.pass_drawn(picture, "a kite")
    checker.let.set()
    await guard.pass_drawn(picture, "a kite")


async def test_who_waits_behind_a_picture_the_checker_hangs_on_is_judged() -> None:
    checker = Hanging(only="hang")
    guard = _guard(checker, patience=2.0)
    hanging = asyncio.create_task(guard.pass_drawn(PIXELS, "hang"))
    await asyncio.sleep(1.0)
    await guard.pass_drawn(PIXELS, "a kite behind it")
    with pytest.raises(PictureUncheckedError):
        await hanging
    assert guard.state(list) == "ok"
    checker.let.set()


async def test_a_checker_that_hangs_is_left_with_few_threads_and_believed_again_when_it_answers() -> None:
    checker = Hanging()
    guard = _guard(checker, patience=0.2)
    with pytest.raises(PictureUncheckedError):
        await guard.pass_drawn(PIXELS, "a kite")
    for _ in range(3 * MOST_LOST):
        await asyncio.sleep(0.11)
        assert guard.state(list) == "unavailable"
        with pytest.raises(CheckerBehindError), guard.expecting(list):
            pass
    assert checker.inside == MOST_LOST
    checker.let.set()
    for _ in range(100):
        if guard.state(list) == "ok":
            break
        await asyncio.sleep(0.05)
    with guard.expecting(list):
        await guard.pass_drawn(PIXELS, "a kite")


async def test_what_a_slow_checker_could_not_judge_in_time_is_not_drawn() -> None:
    guard = _guard(Slow(), patience=2.0)
    await guard.pass_drawn(PIXELS, "measured")
    with contextlib.ExitStack() as inside:
        for _ in range(10):  # of 0.2 s each, or a little more
            if guard.state(list) == "busy":
                break
            inside.enter_context(guard.expecting(list))
        with pytest.raises(CheckerBehindError) as refused:
            inside.enter_context(guard.expecting(list))
        assert refused.value.retry_after == 1
        assert guard.state(list) == "busy"
        # An engine that is slower still leaves it time.
        assert guard.state(lambda: [4.0 * place for place in range(20)]) == "ok"
    assert guard.state(list) == "ok"


@pytest.mark.parametrize(
    ("ready", "busy", "each", "seconds"),
    [
        ([], 0.0, 2.0, 0.0),
        ([0.0] * 5, 0.0, 2.0, 0.0),
        ([0.0] * 6, 0.0, 2.0, 2.0),
        ([0.0] * 7, 0.0, 2.0, 4.0),
        ([0.0] * 5, 1.0, 2.0, 3.0),
        ([float(second) for second in range(10)], 0.0, 2.0, 2.0),
        ([2.0 * second for second in range(100)], 0.0, 2.0, 0.0),
        ([0.0] * 100, 3.0, 0.0, 0.0),
    ],
)
def test_when_the_checker_has_room(ready: list[float], busy: float, each: float, seconds: float) -> None:
    assert seconds_until_room(ready, busy, each, patience=10.0) == seconds


async def test_a_verdict_without_the_prompt_is_none_with_it() -> None:
    guard = _guard(Forbidding())
    assert await guard.pass_stored(encode(PIXELS), None, "")
    with pytest.raises(PictureFlaggedError):
        await guard.pass_stored(encode(PIXELS), "forbidden", "")
    assert await guard.pass_stored(encode(PIXELS), None, "")


async def test_a_pass_without_the_prompt_is_not_written_down() -> None:
    noted: list[tuple[int, str]] = []

    class Store:
        async def note_safety(self, entry_id: int, version: str) -> None:
            noted.append((entry_id, version))

    guard = _guard(Forbidding())
    stored = StoredImage(encode(PIXELS), 4, 4)
    for entry_id, prompt in ((1, None), (2, "a kite")):
        await guard.pass_entry(cast(CacheStore, Store()), entry_id, "t", stored, prompt)
    assert noted == [(2, "f")]


async def test_what_is_stored_is_judged_once() -> None:
    seen: list[str | None] = []

    class Counting:
        version = "c"

        def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
            seen.append(prompt)
            return SafetyVerdict(prompt == "flag", "c")

    guard = _guard(Counting())
    for _ in range(2):
        assert await guard.pass_stored(encode(PIXELS), "pass", "another")
        assert not await guard.pass_stored(b"of this version, and not looked at", "flag", "c")
    assert seen == ["pass"]
    other = encode(np.full((8, 8, 3), 9, np.uint8))
    for _ in range(2):
        with pytest.raises(PictureFlaggedError):
            await guard.pass_stored(other, "flag", "")
    with pytest.raises(PictureUncheckedError):
        await guard.pass_stored(b"no picture", "pass", "")
    assert seen == ["pass", "flag"]
    unguarded = Guard(None, Metrics().safety)
    assert not await unguarded.pass_stored(b"not looked at", "flag", "c")
    await unguarded.pass_drawn(np.zeros((4, 4, 3), np.uint8), "flag")
