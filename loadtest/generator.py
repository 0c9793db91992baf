"""Did the load generator itself keep up? Where it did not, the figures say nothing about the service.

Two things are watched: how late requests left (a request that leaves late makes no load when it should), and how late
a clock in the same process rang (a process that stalls sees answers later than they came).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.figures import percentile
from loadtest.outcomes import Outcome

LEAST_LIMIT = 0.05
SHARE_OF_STANDALONE = 0.1


@dataclass(frozen=True, slots=True)
class Generator:
    """How well a run was generated; seconds.

    Attributes:
        limit: what the 99th percentiles may reach.
        lateness_p50: of sending, after the intended start.
        lateness_p99: likewise.
        lateness_max: likewise.
        stall_p99: how late a clock in the sending process rang.
        stall_max: likewise.
        unsent: requests of the schedule that have no outcome.
        faults: why the run is not valid; empty if it is.
    """

    limit: float
    lateness_p50: float
    lateness_p99: float
    lateness_max: float
    stall_p99: float
    stall_max: float
    unsent: int
    faults: tuple[str, ...]

    @property
    def valid(self) -> bool:
        """Whether the run says something about the service."""
        return not self.faults


def lateness_limit(standalone: Sequence[float], asked: float) -> float:
    """Return the limit on lateness: as asked, or a tenth of the shortest standalone time, 50 ms at least."""
    return asked or max(LEAST_LIMIT, SHARE_OF_STANDALONE * min(standalone, default=0.0))


def judge_generator(outcomes: Sequence[Outcome], stalls: Sequence[float], scheduled: int, limit: float) -> Generator:
    """Judge a run.

    Args:
        outcomes: what came of the requests.
        stalls: how late the clock of each process rang, seconds.
        scheduled: requests in the schedule.
        limit: seconds.
    """
    late = [max(0.0, one.lateness) for one in outcomes] or [0.0]
    waits = list(stalls) or [0.0]
    late_p99, stall_p99 = percentile(late, 99), percentile(waits, 99)
    unsent = scheduled - len(outcomes)
    faults = []
    if late_p99 > limit:
        faults.append(f"requests left late: p99 {late_p99:.3f} s, limit {limit:.3f} s")
    if stall_p99 > limit:
        faults.append(f"the load generator stalled: p99 {stall_p99:.3f} s, limit {limit:.3f} s")
    if unsent:
        faults.append(f"{unsent} of {scheduled} requests were not finished")
    return Generator(limit, percentile(late, 50), late_p99, max(late), stall_p99, max(waits), unsent, tuple(faults))
