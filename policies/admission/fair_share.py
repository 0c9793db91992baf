"""Who goes next, when not all can: groups whose forwards take turns, tenants whose jobs wait for a place."""

import heapq
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class FairShare(Generic[K]):
    """Start-time fair queueing (Goyal et al. 1996), in device seconds.

    Whoever was charged least goes next, and who arrives starts level with the least charged: neither is time away
    saved up, nor is anybody kept waiting for what others had before.

    Groups of jobs step together and are charged what a step took, divided by its jobs. A large picture therefore
    never holds up small ones for longer than one of its steps, and many small ones never keep a large one from its
    share. Tenants are charged what their jobs take, divided by the tenant's weight.
    """

    def __init__(self) -> None:
        self._charged: dict[K, float] = {}

    def pick(self, groups: Iterable[K]) -> K:
        """Return the group to go next; groups that are absent are forgotten.

        Args:
            groups: at least one; a name may come twice.
        """
        self.keep(groups)
        return min(self._charged, key=lambda name: self._charged[name])

    def keep(self, names: Iterable[K]) -> None:
        """Forget all but `names`; the new ones among them start level with the least charged."""
        present = list(names)
        known = {name: self._charged[name] for name in present if name in self._charged}
        least = min(known.values(), default=0.0)
        self._charged = {name: known.get(name, least) for name in present}

    def charge(self, group: K, seconds: float, jobs: int = 1) -> None:
        """Book device time; of who is forgotten nothing is booked.

        Args:
            group: as given to `pick` or `keep`.
            seconds: device time; negative to give back what was booked too much.
            jobs: that share it.
        """
        if group in self._charged:
            self._charged[group] += seconds / jobs

    def order(self, waiting: Sequence[tuple[K, float]]) -> list[int]:
        """Return the indices of `waiting` in the order in which they should be served.

        Args:
            waiting: name and cost of each, in order of arrival; names that were not kept start level with the least
                charged. Within a name the order of arrival holds.
        """
        least = min(self._charged.values(), default=0.0)
        queues: defaultdict[K, deque[int]] = defaultdict(deque)
        for index, (name, _) in enumerate(waiting):
            queues[name].append(index)
        due = [(self._charged.get(name, least), queue[0], name) for name, queue in queues.items()]
        heapq.heapify(due)
        ordered = []
        while due:
            charged, index, name = due[0]
            ordered.append(queues[name].popleft())
            if queues[name]:
                heapq.heapreplace(due, (charged + waiting[index][1], queues[name][0], name))
            else:
                heapq.heappop(due)
        return ordered
