"""The shadow audit's controller: what audited hits make of the table's bounds.

A sampled share of approximate hits is drawn again in full, and a judge compares. Per level, and for all levels
together, bets are kept on whether the rate of bad hits less good ones exceeds its bound
(`policies.matching.evidence`); a level
where it evidently does has its divergence bound multiplied by a factor below 1, and is closed if even the tightest
factor does not hold. It is never laxer than the table, and goes back towards it one rung at a time, after many good
hits. Hits of the very same text are watched apart: they hardly diverge, so they would hide the others and no tighter
bound would help them.

How often a bound that holds is tightened all the same: fewer than `Rules.mistakes` times, over all watches together,
in as many audited hits as `Rules.window`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policies.matching.evidence import interval
from policies.matching.loss import visibly_below
from policies.matching.table import ThresholdRow, bounds_at
from policies.matching.watch import SAME_TEXT, Change, Counts, Levels, Outcome, Watch

ALL, OTHER_TEXT, SAME = "all", "other-text", "same-text"
SIMILARITY_BANDS = ((0.98, "0.98-1"), (0.95, "0.95-0.98"), (0.9, "0.9-0.95"))
LEAST_SIMILAR = "below-0.9"
VERSION = 2


def outcome_of(delivered: float, full: float, loss: float) -> Outcome:
    """Compare a hit with the full run of the same prompt from the same starting noise.

    Not the bad hit of calibration, which knows two full runs: see `policies.matching.loss`.

    Args:
        delivered: judge's score of the hit's picture.
        full: judge's score of the full run's picture.
        loss: see `visibly_below`.
    """
    if visibly_below(delivered, full, loss):
        return "bad"
    return "good" if visibly_below(full, delivered, loss) else "even"


@dataclass(frozen=True, slots=True)
class AuditedHit:
    """An approximate hit beside its full run.

    Attributes:
        similarity: cosine of the two prompt embeddings.
        skip: share of the source's steps before the state entered.
        same_text: whether the two prompts are the same text.
        divergence: the gate's value; None where it did not judge.
        outcome: what the judge made of it.
    """

    similarity: float
    skip: float
    same_text: bool
    divergence: float | None
    outcome: Outcome

    @property
    def band(self) -> str:
        """Name of its similarity band."""
        if self.same_text:
            return SAME
        return next((name for floor, name in SIMILARITY_BANDS if self.similarity >= floor), LEAST_SIMILAR)


@dataclass(frozen=True, slots=True)
class Rules:
    """How the controller decides.

    Attributes:
        bound: largest rate of bad hits less good ones, in (0, 1).
        mistakes: tightenings of bounds that hold, per window of audited hits, at most.
        window: audited hits that count; older ones are forgotten.
    """

    bound: float = 0.05
    mistakes: float = 0.05
    window: int = 400

    def __post_init__(self) -> None:
        if not (0.0 < self.bound < 1.0 and 0.0 < self.mistakes < 1.0 and self.window >= 2):
            raise ValueError("bound and mistakes lie in (0, 1), a window has at least 2 hits")


@dataclass(frozen=True, slots=True)
class BandReport:
    """The latest audited hits of one band.

    Attributes:
        similarity: name of the similarity band: one of `SIMILARITY_BANDS`, or SAME, OTHER_TEXT, ALL.
        skip: name of the level, or ALL.
        hits: audited.
        bad: worse than their full run by more than the judge's loss.
        good: better by as much.
        lower: limit of the 95 % interval of the rate.
        upper: likewise.
    """

    similarity: str
    skip: str
    hits: int
    bad: int
    good: int
    lower: float
    upper: float

    @property
    def rate(self) -> float:
        """Share of bad hits less that of good ones; NaN without hits."""
        return (self.bad - self.good) / self.hits if self.hits else math.nan


@dataclass(frozen=True, slots=True)
class Moved:
    """A watch changed its factor."""

    watch: str
    change: Change
    factor: float


class AuditController:
    """Learns from audited hits and tells the factors; has one owner, does no I/O.

    Args:
        rows: the table's bounds in force.
        rules: how it decides.
        frozen: measure only: factors stay where they are.
    """

    def __init__(self, rows: Sequence[ThresholdRow], rules: Rules | None = None, *, frozen: bool = False) -> None:
        self.rules = rules or Rules()
        self.frozen = frozen
        self._rows = tuple(rows)
        self._levels = tuple(row.skip for row in self._rows)
        self.reset()

    def reset(self) -> None:
        """Forget every hit and go back to the table."""
        names = [level_name(skip) for skip in self._levels]
        # Two records a window are begun per watch; each may be wrong once.
        chance = self.rules.mistakes / (2 * (len(names) + 2))
        how = Levels(self.rules.bound, math.log(1 / chance), math.log(1 / self.rules.mistakes), self.rules.window)
        self._watches = {name: Watch(how) for name in (*names, ALL)} | {SAME: Watch(how, SAME_TEXT)}
        self._bands: dict[tuple[str, str], Counts] = {}

    def factor(self, skip: float, *, same_text: bool) -> float:
        """Return what to multiply the table's divergence bound of a state at `skip` by; 0 = do not enter it."""
        if same_text:
            return self._watches[SAME].factor
        return min(self._watches[ALL].factor, self._watches[self.level(skip)].factor)

    def level(self, skip: float) -> str:
        """Return the name of the table's level that a state at `skip` counts for."""
        return level_name(min(self._levels, key=lambda level: abs(level - skip)))

    def note(self, hit: AuditedHit) -> list[Moved]:
        """Learn from a hit; return which factors it moved."""
        self._tally(hit)
        names = (SAME,) if hit.same_text else (self.level(hit.skip), ALL)
        strain = 0.0 if hit.same_text else self._strain(hit)
        for name in names:
            self._watches[name].note(strain, hit.outcome)
        if self.frozen:
            return []
        decided = [(name, self._watches[name].decide(may_relax=self._binding(name))) for name in names]
        return [Moved(name, change, self._watches[name].factor) for name, change in decided if change is not None]

    @property
    def factors(self) -> dict[str, float]:
        """The factors in force per level, for all levels together (ALL), and for the same text (SAME)."""
        whole = self._watches[ALL].factor
        return {
            name: watch.factor if name == SAME else min(whole, watch.factor) for name, watch in self._watches.items()
        }

    @property
    def evidence(self) -> dict[str, float]:
        """Per watch ln of the evidence that the bound is broken now; never below -99, where it is none."""
        return {name: max(-99.0, watch.evidence) for name, watch in self._watches.items()}

    def report(self) -> list[BandReport]:
        """Return the bands that have audited hits."""
        rows = [(band, counts.long) for band, counts in sorted(self._bands.items())]
        return [_band_report(*band, *record) for band, record in rows if record[0]]

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON; prompts are no part of it."""
        return {
            "version": VERSION,
            "watches": {name: watch.to_json() for name, watch in self._watches.items()},
            "bands": [[*band, counts.to_json()] for band, counts in self._bands.items()],
        }

    def restore(self, data: Mapping[str, Any]) -> None:
        """Take over a state made for the same levels.

        Raises:
            ValueError: it is none; the controller is as new.
        """
        try:
            if data["version"] != VERSION or data["watches"].keys() != self._watches.keys():
                raise ValueError("made for other levels, or by another version")
            for name, watch in self._watches.items():
                watch.restore(data["watches"][name])
            for similarity, skip, counts in data["bands"]:
                self._band(str(similarity), str(skip)).restore(counts)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self.reset()
            raise ValueError(f"not a state of this audit: {error}") from error

    def _binding(self, name: str) -> bool:
        """Whether a level's own factor holds its hits, not that of all levels."""
        return name in (ALL, SAME) or self._watches[name].factor <= self._watches[ALL].factor

    def _strain(self, hit: AuditedHit) -> float:
        """The hit's divergence as a share of the table's bound."""
        bounds = bounds_at(self._rows, hit.skip)
        if hit.divergence is None or bounds is None or math.isinf(bounds.max_divergence):
            return 0.0
        return hit.divergence / bounds.max_divergence if bounds.max_divergence else 1.0

    def _tally(self, hit: AuditedHit) -> None:
        level = self.level(hit.skip)
        bands = [(hit.band, level), (ALL, ALL), (SAME if hit.same_text else OTHER_TEXT, ALL)]
        for band in bands:
            self._band(*band).add([1, int(hit.outcome == "bad"), int(hit.outcome == "good")])

    def _band(self, similarity: str, skip: str) -> Counts:
        return self._bands.setdefault((similarity, skip), Counts(3, self.rules.window))


def level_name(skip: float) -> str:
    """Return a level as a label."""
    return f"{skip:.3g}"


def _band_report(similarity: str, skip: str, hits: int, bad: int, good: int) -> BandReport:
    return BandReport(similarity, skip, hits, bad, good, *interval(bad, good, hits))
