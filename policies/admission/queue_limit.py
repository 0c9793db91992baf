"""A bound on the number of pictures inside, whatever they take."""

from policies.admission.base import AdmissionPolicy, Ask, Decision, Load
from policies.admission.forecast import finish_of, forecast


class QueueLimit(AdmissionPolicy):
    """Admits while fewer than `limit` pictures are inside; what most servers do, and a bound behind any policy.

    Args:
        limit: most pictures inside.
    """

    name = "queue-limit"

    def __init__(self, limit: int) -> None:
        self._limit = limit

    def decide(self, ask: Ask, load: Load) -> Decision:
        """Return what becomes of `ask`."""
        surplus = len(load.jobs) + 1 - self._limit
        if surplus <= 0 or not load.jobs:
            return Decision(finish_seconds=finish_of(ask.work, load).done)
        return Decision("queue_full", retry_seconds=places_free(load, surplus))


def places_free(load: Load, places: int) -> float:
    """Return when so many pictures of those inside will be finished, in seconds; a moment where nothing is known."""
    ends = sorted(
        finish.done for finish in forecast(Load(load.jobs, load.slots, load.pace, load.pixels, load.beside))
    )
    if not ends:
        return LEAST_WAIT
    return max(LEAST_WAIT, ends[min(places, len(ends)) - 1])


LEAST_WAIT = 1e-3
