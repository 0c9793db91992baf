"""Follower and Robust: caching that asks a predictor rarely, and is never led far astray by it."""

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

from policies.eviction.parsimonious.optimum import OptimumCounter

Growth = Callable[[int], int]

GROWTHS: dict[str, Growth] = {
    "linear": lambda i: i,
    "square": lambda i: i * i,
    "exponential": lambda i: 2**i - 1,
}
"""f of the paper by name, from few queries to many: increasing, convex, f(0) = 0."""


class Predictor(Protocol):
    """Says when pages will be requested next. It is told of every request before it is asked."""

    def observe(self, page: int) -> None:
        """Take note of a request."""

    def next_arrivals(self, pages: Sequence[int]) -> Sequence[float]:
        """Return the time of each page's next request, on any scale that orders them; infinity = never."""


class RandomSet:
    """A set that a uniformly random member can be taken from in constant time."""

    def __init__(self, members: Iterable[int] = ()) -> None:
        """Start with `members`."""
        self._list = list(members)
        self._at = {member: i for i, member in enumerate(self._list)}

    def discard(self, member: int) -> None:
        """Take a member out, if it is there."""
        i = self._at.pop(member, None)
        if i is None:
            return
        last = self._list.pop()
        if last != member:
            self._list[i], self._at[last] = last, i

    def draw(self, generator: random.Random) -> int | None:
        """Return a random member, or None when there is none."""
        return self._list[generator.randrange(len(self._list))] if self._list else None


class FollowAndRobust:
    """F&R of Sadek and Elias, "Algorithms for Caching and MTS with reduced number of predictions", ICLR 2024.

    The cache is virtual: it says which pages ought to be held. *Follower* imitates the predictor's cache, that of
    Belady's algorithm on predicted arrivals, asking for it only on a fault that the last answer does not explain, and
    only while its faults are at most `alpha` times those of the offline optimum. Then *Robust* takes over, a marking
    algorithm that asks at prescribed arrivals, until k distinct pages have arrived.

    With f = `growth`, O(f(log k)) x OPT queries suffice for at most OPT faults with perfect predictions and
    O(log k) x OPT with any (proven for alpha = 1 and spacing = 1).
    """

    def __init__(
        self,
        k: int,
        predictor: Predictor,
        *,
        growth: Growth = GROWTHS["square"],
        alpha: float = 1.0,
        spacing: int = 1,
        seed: int = 0,
        window: int = 1 << 16,
    ) -> None:
        """Start empty.

        Args:
            k: pages the cache holds.
            predictor: whom to ask; the caller tells it of the requests.
            growth: f, which spreads Robust's queries.
            alpha: faults per fault of the optimum up to which the predictor is followed; infinity = always.
            spacing: at most one query in so many consecutive requests.
            seed: of the random evictions.
            window: requests that the optimum's counter remembers.
        """
        self.k = k
        self.cached: dict[int, None] = {}
        self.faults = self.queries = 0
        self.mode: Literal["follower", "robust"] = "follower"
        self.changes: list[tuple[int, bool]] = []
        self.optimum = OptimumCounter(k, window)
        self._predictor, self._alpha, self._spacing = predictor, alpha, spacing
        self._random = random.Random(seed)
        self._predicted: set[int] = set()
        self._since: dict[int, None] = {}  # requested since the last query, and not predicted
        self._stale: OrderedDict[int, None] = OrderedDict()  # cached and not predicted, least recently used first
        self._recent: OrderedDict[int, None] = OrderedDict()  # the k pages requested last
        self._own = self._best = 0
        self._since_query = spacing
        self._query_at, self._reload_at = schedule(k, growth)

    def request(self, page: int) -> bool:
        """Serve a request; return whether the page was cached. What came and went is appended to `changes`."""
        self._since_query += 1
        self._best += self.optimum.request(page)
        if page not in self._predicted:
            self._since[page] = None
        hit = page in self.cached
        if not hit:
            self.faults += 1
            self._own += 1
        if self.mode == "follower":
            self._follow(page, hit)
        else:
            self._resist(page)
        self._note(page)
        return hit

    def _note(self, page: int) -> None:
        self._recent[page] = None
        self._recent.move_to_end(page)
        if len(self._recent) > self.k:
            self._recent.popitem(last=False)
        if page in self._stale:
            self._stale.move_to_end(page)

    def _follow(self, page: int, hit: bool) -> None:
        if hit:
            return
        if len(self.cached) < self.k:
            if len(self._predicted) < self.k:
                self._predicted.add(page)
                self._since.pop(page, None)
            self._load(page)
        elif page in self._predicted:
            self._replace(page, self._least_stale())
        elif self._own > self._alpha * self._best:
            self._start_robust()
            self._resist(page)
        else:
            if self._since_query >= self._spacing:
                self._query(page)
            self._replace(page, self._least_stale())

    def _least_stale(self) -> int:
        """Return the least recently used page that the predictor would not hold, else any that it would."""
        return next(iter(self._stale or self.cached))

    def _query(self, page: int) -> None:
        """Ask which pages the predictor's cache holds now: the k of its own and those requested since, soonest first.

        The requested page is among them: demand paging has no way around the cache.
        """
        self.queries += 1
        self._since_query = 0
        candidates = [other for other in (*self._predicted, *self._since) if other != page]
        arrivals = self._predictor.next_arrivals(candidates)
        soonest = sorted(range(len(candidates)), key=arrivals.__getitem__)[: self.k - 1]
        self._predicted = {page, *(candidates[i] for i in soonest)}
        self._since = {}
        # Those that were stale already keep their order; who has just become stale is the more recent.
        before = [other for other in self._stale if other not in self._predicted]
        fresh = [other for other in self.cached if other not in self._predicted and other not in self._stale]
        self._stale = OrderedDict.fromkeys(before + fresh)

    def _load(self, page: int) -> None:
        self.cached[page] = None
        self.changes.append((page, True))
        if page not in self._predicted:
            self._stale[page] = None

    def _drop(self, page: int) -> None:
        del self.cached[page]
        self.changes.append((page, False))
        self._stale.pop(page, None)

    def _replace(self, page: int, victim: int) -> None:
        self._drop(victim)
        self._load(page)

    def _start_robust(self) -> None:
        """Go over to the k pages requested last, all unmarked."""
        self.mode = "robust"
        old, self.cached = self.cached, dict.fromkeys(self._recent)
        self.changes += [(page, False) for page in old if page not in self.cached]
        self.changes += [(page, True) for page in self.cached if page not in old]
        self._stale = OrderedDict.fromkeys(page for page in self.cached if page not in self._predicted)
        self._initial = frozenset(self.cached)
        self._marked: set[int] = set()
        self._unmarked = RandomSet(self.cached)
        self._reload: set[int] = set()

    def _resist(self, page: int) -> None:
        """Serve a request in Robust."""
        arrival = page not in self._marked
        if arrival:
            self._arrive(page)
        if page not in self.cached:
            follow = arrival and (page in self._reload or page not in self._initial)
            victim = next(iter(self._stale), None) if follow else None
            if victim is None:
                victim = self._unmarked.draw(self._random)
            victim = self._least_stale() if victim is None else victim
            self._unmarked.discard(victim)
            self._replace(page, victim)
        if len(self._marked) >= self.k:
            self.mode = "follower"
            self._own = self._best = 0

    def _arrive(self, page: int) -> None:
        self._marked.add(page)
        self._unmarked.discard(page)
        number = len(self._marked)
        if number in self._query_at and self._since_query >= self._spacing:
            self._query(page)
        if number in self._reload_at:
            lost = self._initial - self._marked - self.cached.keys()
            self._reload = {other for other in lost if other in self._predicted}


def schedule(k: int, growth: Growth) -> tuple[frozenset[int], frozenset[int]]:
    """Return the arrivals at which Robust asks, and those at which its windows begin.

    Window i reaches from S_(i-1) to before S_i, with S_i = k - floor(k / 2^i) + 1, and has f(i) - f(i-1) queries,
    evenly spaced.
    """
    starts = [k - k // 2**i + 1 for i in range(k.bit_length())]
    queries: set[int] = set()
    for i in range(1, len(starts)):
        count = min(growth(i) - growth(i - 1), starts[i] - starts[i - 1])
        width = starts[i] - starts[i - 1]
        queries |= {starts[i - 1] + (j * width) // count for j in range(count)}
    return frozenset(queries), frozenset(starts)
