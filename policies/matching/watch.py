"""One stream of audited hits under watch: how far its divergence bounds are tightened, and when that changes."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from policies.matching.evidence import log_evidence_above, log_evidence_below

CLOSED = 0.0
LADDER = (1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.1, CLOSED)
"""Factors on the table's divergence bounds, laxest first; the last lets nothing through."""
SAME_TEXT = (1.0, CLOSED)
"""Hits of the very same text do not diverge: tightening cannot tell bad ones from good ones."""
# Evidence a rung asks for before it is left upwards, times this for every time that turned out wrong.
_ONCE_BITTEN = 4.0
_MOST_BITES = 6

Outcome = Literal["bad", "good", "even"]
Change = Literal["tightened", "relaxed"]


class Counts:
    """Counts over the latest hits: at least the last half of a window, at most a whole one.

    A record is begun every half window and dropped when it is a window old. So what is read at any time is one
    unbroken run of hits whose beginning was not chosen by looking at them, as evidence by betting asks for.

    Args:
        width: how many numbers are counted.
        window: hits after which a record is dropped.
    """

    def __init__(self, width: int, window: int) -> None:
        self._half = max(1, window // 2)
        self.long = [0] * width
        self.short = [0] * width
        self.age = 0

    @property
    def records(self) -> tuple[list[int], list[int]]:
        """The older and the younger record."""
        return self.long, self.short

    def add(self, seen: Sequence[int]) -> None:
        """Add what one hit counts for."""
        for record in self.records:
            record[:] = [count + one for count, one in zip(record, seen, strict=True)]
        self.age += 1
        if self.age >= self._half:
            self.long, self.short, self.age = self.short, [0] * len(self.short), 0

    def clear(self) -> None:
        """Begin anew."""
        self.long, self.short, self.age = [0] * len(self.long), [0] * len(self.long), 0

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON."""
        return {"long": self.long, "short": self.short, "age": self.age}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take counts over; ValueError when they are none of this width."""
        long, short, age = list(data["long"]), list(data["short"]), data["age"]
        numbers = [*long, *short, age]
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise ValueError("counts must be whole numbers")
        if len(long) != len(self.long) or len(short) != len(self.long):
            raise ValueError("counts of another width")
        self.long, self.short, self.age = long, short, age


@dataclass(frozen=True, slots=True)
class Levels:
    """How sure a watch must be.

    Attributes:
        bound: largest rate of bad hits less good ones.
        tighten: ln of the evidence that the bound is broken.
        relax: ln of the evidence that it holds.
        window: hits that count.
    """

    bound: float
    tighten: float
    relax: float
    window: int


@dataclass
class Watch:
    """The bets on one stream of hits, one per rung of the ladder.

    A hit's strain is its divergence as a share of the table's bound. A rung f would have admitted the hits of a
    strain up to f, so each rung is judged by those: when one falls, the hits in hand tell which tighter one to go to.

    Attributes:
        levels: how sure it must be.
        ladder: factors, laxest first, `CLOSED` last.
        rung: the one in force.
        bites: how often a rung was left for a tighter one; makes every way back longer.
        counts: hits, then bad hits, then good ones, per rung.
        since: hits, bad and good hits since the rung in force was taken: what came before does not bring a laxer one
            back.
    """

    levels: Levels
    ladder: tuple[float, ...] = LADDER
    rung: int = 0
    bites: int = 0
    counts: Counts = field(init=False)
    since: list[int] = field(default_factory=lambda: [0, 0, 0])

    def __post_init__(self) -> None:
        self.counts = Counts(3 * len(self.ladder), self.levels.window)

    @property
    def factor(self) -> float:
        """The factor in force."""
        return self.ladder[self.rung]

    @property
    def evidence(self) -> float:
        """Ln of the evidence that the rung in force breaks the bound."""
        return self._against(self.rung)

    def note(self, strain: float, outcome: Outcome) -> None:
        """Count a hit, for the rung in force and the tighter ones that would have admitted it.

        Laxer ones have hits that this one refuses, so what it lets through tells nothing of them.
        """
        if strain > self.factor:
            return  # on its way when the rung changed
        admits = [int(place >= self.rung and strain <= factor) for place, factor in enumerate(self.ladder)]
        admits[-1] = 0
        bad, good = int(outcome == "bad"), int(outcome == "good")
        self.counts.add([*admits, *(bad * one for one in admits), *(good * one for one in admits)])
        since = self.since if self.since[0] < self.levels.window else [0, 0, 0]
        self.since = [since[0] + 1, since[1] + bad, since[2] + good]

    def decide(self, *, may_relax: bool = True) -> Change | None:
        """Move to another rung if the hits say so; return which way.

        Args:
            may_relax: whether no other watch holds the same hits to less.
        """
        if self.factor == CLOSED:
            return None
        if self._against(self.rung) >= self.levels.tighten:
            self.rung = self._next()
            self.bites = min(self.bites + 1, _MOST_BITES)
            self.since = [0, 0, 0]
            return "tightened"
        if may_relax and self.rung and self._holds():
            self.rung -= 1
            self.counts.clear()
            self.since = [0, 0, 0]
            return "relaxed"
        return None

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON."""
        return {"rung": self.rung, "bites": self.bites, "since": self.since, "counts": self.counts.to_json()}

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take a state over; ValueError or KeyError when it is not one of this ladder."""
        rung, bites, (hits, bad, good) = data["rung"], data["bites"], data["since"]
        whole = all(type(number) is int for number in (rung, bites, hits, bad, good))
        possible = whole and min(bad, good) >= 0 and bad + good <= hits
        if not possible or not (0 <= rung < len(self.ladder) and bites >= 0):
            raise ValueError("not a state of this ladder")
        self.counts.restore(data["counts"])
        self.rung, self.bites, self.since = rung, bites, [hits, bad, good]

    def _next(self) -> int:
        """The laxest tighter rung at which the hits in hand keep the bound; closed only if the tightest is broken."""
        open_rungs = range(self.rung + 1, len(self.ladder) - 1)
        hits, bad, good = self._split(self.counts.long)
        for rung in open_rungs:
            if bad[rung] - good[rung] <= self.levels.bound * hits[rung] and self._against(rung) < self.levels.tighten:
                return rung
        tightest = len(self.ladder) - 2
        if tightest > self.rung and self._against(tightest) < self.levels.tighten:
            return tightest
        return len(self.ladder) - 1

    def _against(self, rung: int) -> float:
        records = (self._split(record) for record in self.counts.records)
        return max(
            log_evidence_above(bad[rung], good[rung], hits[rung], self.levels.bound) for hits, bad, good in records
        )

    def _holds(self) -> bool:
        hits, bad, good = self.since
        wanted = self.levels.relax + self.bites * math.log(_ONCE_BITTEN)
        return log_evidence_below(bad, good, hits, self.levels.bound) >= wanted

    def _split(self, record: list[int]) -> tuple[list[int], list[int], list[int]]:
        width = len(self.ladder)
        return record[:width], record[width : 2 * width], record[2 * width :]
