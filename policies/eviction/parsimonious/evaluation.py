"""What F&R is worth on a trace of pages, by how wrong its predictor is."""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from policies.eviction.parsimonious.follow import FollowAndRobust, Predictor
from policies.eviction.parsimonious.reuse import ReusePredictor


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        algorithm: "oracle", "lru", "follow-always" or "f&r alpha=ALPHA".
        predictor: "none", "exact", "noise SIGMA" or "learned".
        faults: pages loaded.
        queries: how often the predictor was asked.
    """

    algorithm: str
    predictor: str
    faults: int
    queries: int


def next_uses(trace: Sequence[int]) -> list[float]:
    """Return for each request the time its page is requested next."""
    following: dict[int, int] = {}
    times = [math.inf] * len(trace)
    for t in range(len(trace) - 1, -1, -1):
        times[t] = following.get(trace[t], math.inf)
        following[trace[t]] = t
    return times


class NoisyOracle:
    """Knows the trace; each next arrival's distance is off by a log-normal factor, drawn once per request."""

    def __init__(self, trace: Sequence[int], sigma: float, seed: int = 0) -> None:
        """Be wrong by exp(normal(0, `sigma`)); 0 = exact."""
        factors = np.exp(np.random.default_rng(seed).normal(0.0, sigma, len(trace)))
        self._arrivals = [
            t + (after - t) * float(x) for t, (after, x) in enumerate(zip(next_uses(trace), factors, strict=True))
        ]
        self._known: dict[int, float] = {}
        self._now = 0

    def observe(self, page: int) -> None:
        """See `Predictor.observe`; the requests must be those of the trace."""
        self._known[page] = self._arrivals[self._now]
        self._now += 1

    def next_arrivals(self, pages: Sequence[int]) -> list[float]:
        """See `Predictor.next_arrivals`."""
        return [self._known.get(page, math.inf) for page in pages]


def optimal_faults(trace: Sequence[int], k: int) -> int:
    """Return the faults of Belady's algorithm."""
    heap: list[tuple[float, int]] = []
    held: dict[int, float] = {}
    faults = 0
    for page, after in zip(trace, next_uses(trace), strict=True):
        if page not in held:
            faults += 1
            while len(held) >= k:
                negative, other = heapq.heappop(heap)
                if held.get(other) == -negative:
                    del held[other]
        held[page] = after
        heapq.heappush(heap, (-after, page))
    return faults


def lru_faults(trace: Sequence[int], k: int) -> int:
    """Return the faults of LRU."""
    held: OrderedDict[int, None] = OrderedDict()
    faults = 0
    for page in trace:
        if page in held:
            held.move_to_end(page)
            continue
        faults += 1
        if len(held) >= k:
            held.popitem(last=False)
        held[page] = None
    return faults


def lazy_run(trace: Sequence[int], core: FollowAndRobust, predictor: Predictor) -> tuple[int, int]:
    """Return (faults, queries) of the cache that follows `core` lazily.

    It evicts only on a fault of its own, and then a page that the virtual cache does not hold.
    """
    held: set[int] = set()
    loose: OrderedDict[int, None] = OrderedDict()
    faults = 0
    for page in trace:
        predictor.observe(page)
        core.request(page)
        for other, inside in core.changes:
            if inside:
                loose.pop(other, None)
            elif other in held:
                loose[other] = None
        core.changes.clear()
        if page in held:
            continue
        faults += 1
        if len(held) >= core.k:
            victim, _ = loose.popitem(last=False)
            held.remove(victim)
        held.add(page)
    return faults, core.queries


def noise_table(
    trace: Sequence[int],
    k: int,
    sigmas: Sequence[float] = (0.0, 0.5, 1.0, 2.0, 5.0, 20.0),
    alphas: Sequence[float] = (1.0, 1.25),
    *,
    seed: int = 0,
    note: Callable[[Row], None] = lambda row: None,
) -> list[Row]:
    """Return "predictor noise -> faults, queries", beside LRU, following always, and the oracle.

    Args:
        trace: pages, one per request.
        k: pages the cache holds.
        sigmas: log-normal noise on the distance of the next arrival.
        alphas: of F&R.
        seed: of the noise and of random evictions.
        note: called with each row as it is done.
    """
    rows = [Row("oracle", "exact", optimal_faults(trace, k), 0), Row("lru", "none", lru_faults(trace, k), 0)]
    for row in rows:
        note(row)
    makers: list[tuple[str, Callable[[], Predictor]]] = [
        (f"noise {sigma:g}", partial(NoisyOracle, trace, sigma, seed)) for sigma in sigmas
    ]
    for label, make in [*makers, ("learned", ReusePredictor)]:
        for alpha in (math.inf, *alphas):
            predictor = make()
            core = FollowAndRobust(k, predictor, alpha=alpha, seed=seed, window=len(trace) + 1)
            name = "follow-always" if math.isinf(alpha) else f"f&r alpha={alpha:g}"
            rows.append(Row(name, label, *lazy_run(trace, core, predictor)))
            note(rows[-1])
    return rows
