"""Which group of jobs steps next, when not all can share one forward."""

from collections.abc import Hashable, Iterable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FairShare(Generic[K]):
    """Start-time fair queueing (Goyal et al. 1996) over groups, in device seconds per job.

    Jobs of one group step together, so a group is charged what its step took, divided by its jobs; the group that
    was charged least goes next. A large picture therefore never holds up small ones for longer than one of its
    steps, and many small ones never keep a large one from its share. A group that arrives starts level with the least
    charged.
    """

    def __init__(self) -> None:
        self._charged: dict[K, float] = {}

    def pick(self, groups: Iterable[K]) -> K:
        """Return the group to go next; groups that are absent are forgotten.

        Args:
            groups: at least one; a name may come twice.
        """
        names = list(groups)
        known = {name: self._charged[name] for name in names if name in self._charged}
        least = min(known.values(), default=0.0)
        self._charged = {name: known.get(name, least) for name in names}
        return min(self._charged, key=lambda name: self._charged[name])

    def charge(self, group: K, seconds: float, jobs: int) -> None:
        """Book one forward of a group.

        Args:
            group: as returned by `pick`.
            seconds: device time of the forward.
            jobs: in the whole group, however many forwards its step takes.
        """
        if group in self._charged:
            self._charged[group] += seconds / jobs
