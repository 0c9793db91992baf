"""A reuse predictor learned from the log: how long until a page is requested again?"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

_AGES = 26
_USES = 5
_GAPS = 10
_PRIOR = 8.0
_REFRESH = 512


class ReusePredictor:
    """A hazard table: among pages of a class that reached an age, the share requested before the age doubled.

    A page's class is how often it was requested (1, 2-3, 4-7, ...) and how long its last interval was (in powers
    of four); the ages are powers of two. Time counts requests. Each request teaches: it ends an interval, or it lets
    others grow older without a request, which counts just as much; pages that never come back are learned from, too.
    Rare classes lean on all pages' hazards. Predicted is the harmonic mean of the time that remains: of two pages the
    one more likely to come soon is the one to keep, whatever their tails.
    """

    def __init__(self, memory: int = 1 << 20) -> None:
        """Know at most `memory` pages, those requested last."""
        self._memory = memory
        self._reached = np.zeros((_USES * _GAPS, _AGES))
        self._ended = np.zeros((_USES * _GAPS, _AGES))
        self._pages: OrderedDict[int, tuple[int, int, int]] = OrderedDict()  # last request, requests, class
        self._growing: list[deque[tuple[int, int]]] = [deque() for _ in range(_AGES)]
        self._now = 0
        self._inverse = np.zeros((_USES * _GAPS, _AGES))
        self._refreshed = -_REFRESH

    def observe(self, page: int) -> None:
        """Learn from one request."""
        self._now += 1
        self._age_all()
        before = self._pages.pop(page, None)
        requests, gap = 1, 0
        if before is not None:
            last, requests, kind = before[0], before[1] + 1, before[2]
            age = min((self._now - last).bit_length() - 1, _AGES - 1)
            self._reached[kind, age] += 1
            self._ended[kind, age] += 1
            gap = 1 + min(age // 2, _GAPS - 2)
        kind = min(requests.bit_length() - 1, _USES - 1) * _GAPS + gap
        self._pages[page] = (self._now, requests, kind)
        self._growing[0].append((self._now, page))
        if len(self._pages) > self._memory:
            self._pages.popitem(last=False)

    def _age_all(self) -> None:
        """Note for each page whose age has doubled that it reached that age without a request."""
        for age, waiting in enumerate(self._growing):
            while waiting and self._now - waiting[0][0] >= 2 << age:
                last, page = waiting.popleft()
                known = self._pages.get(page)
                if known is None or known[0] != last:
                    continue
                self._reached[known[2], age] += 1
                if age + 1 < _AGES:
                    self._growing[age + 1].append((last, page))

    def fit(self, pages: Iterable[int]) -> Self:
        """Learn from a log of requests; return the predictor."""
        for page in pages:
            self.observe(page)
        return self

    def next_arrivals(self, pages: Sequence[int]) -> list[float]:
        """Return the predicted time of each page's next request; pages unknown come last."""
        if self._now - self._refreshed >= _REFRESH:
            self._refresh()
        rows = [self._pages.get(page) for page in pages]
        return [np.inf if row is None else self._now + self._remaining(row) for row in rows]

    def _remaining(self, row: tuple[int, int, int]) -> float:
        age = min(max(self._now - row[0], 1).bit_length() - 1, _AGES - 1)
        return 1.0 / max(float(self._inverse[row[2], age]), 1e-12)

    def _refresh(self) -> None:
        """Turn the counts into expected inverse remaining times, from the oldest age to the youngest.

        With hazard h at age a, remaining time about 1.5 x 2^a - 2^a if it ends here, else 2^a more than at the next.
        """
        self._refreshed = self._now
        pooled = (self._ended.sum(0) + 0.5) / (self._reached.sum(0) + 1.0)
        hazard = (self._ended + _PRIOR * pooled) / (self._reached + _PRIOR)
        later = np.full(len(hazard), 1e-12)
        for age in range(_AGES - 1, -1, -1):
            span = float(2**age)
            here: NDArray[np.float64] = hazard[:, age] / (0.5 * span)
            later = here + (1.0 - hazard[:, age]) / (1.0 / later + span)
            self._inverse[:, age] = later

    def dump(self) -> dict[str, Any]:
        """Return what was learned, as JSON takes it; what is known of single pages is left out."""
        return {"version": 1, "reached": self._reached.tolist(), "ended": self._ended.tolist()}

    @classmethod
    def load(cls, learned: dict[str, Any], memory: int = 1 << 20) -> "ReusePredictor":
        """Return a predictor with what `dump` returned; ValueError when it is something else."""
        predictor = cls(memory)
        reached, ended = (np.asarray(learned.get(name), float) for name in ("reached", "ended"))
        shape = predictor._reached.shape
        bad = learned.get("version") != 1 or reached.shape != shape or ended.shape != shape
        if bad or not (np.isfinite(reached).all() and (ended >= 0).all() and (ended <= reached).all()):
            raise ValueError("not what a reuse predictor has learned")
        predictor._reached, predictor._ended = reached, ended
        return predictor
