"""When a refused picture should come back: found by the very rule that refused it."""

from collections.abc import Callable

from policies.admission.base import Load
from policies.admission.forecast import forecast, later

# Moments tried, apart from the first guess.
TRIES = 5


def drained(load: Load) -> float:
    """Return when everything inside and promised is done, in seconds."""
    return max((finish.done for finish in forecast(load)), default=0.0)


def first_admission(load: Load, guess: float, admits: Callable[[Load], bool]) -> float:
    """Return a time, in seconds from now, after which `admits` holds if nobody else comes; the earliest tried.

    Args:
        load: what is inside now.
        guess: where to begin; what is ahead of a picture drains while it stays away, so that the moment it would be
            finished hardly changes, and the guess is nearly always right.
        admits: the rule. It must hold for a load without jobs.
    """
    ends = sorted({finish.done for finish in forecast(load) if finish.done > guess})
    spread = ends[:: max(1, len(ends) // TRIES)]
    for wait in [guess, *spread]:
        if wait > 0 and admits(later(load, wait)):
            return wait
    return max(drained(load), guess, _A_MOMENT)


_A_MOMENT = 1e-3
