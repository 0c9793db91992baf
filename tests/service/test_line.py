"""Who waits for a first step, in which order; and what is worth a thread."""

import threading

from service.line import Line
from service.pictures import SMALL_PIXELS, aside


def test_those_ahead_are_counted() -> None:
    line = Line()
    with line.waiting("a"), line.waiting("b"), line.waiting("c"):
        assert [line.position(name) for name in "abc"] == [1, 2, 3]
        line.leave("a")
        line.leave("a")
        assert [line.position(name) for name in "abc"] == [None, 1, 2]
    assert line.position("b") is None
    assert line.position("nobody") is None


async def test_large_pictures_are_worked_on_in_a_thread() -> None:
    here = threading.get_ident()
    assert await aside(SMALL_PIXELS, threading.get_ident) == here
    assert await aside(SMALL_PIXELS + 1, threading.get_ident) != here
