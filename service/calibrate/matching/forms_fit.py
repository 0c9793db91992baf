"""From trials of states made again to figures per level, and to the form that serves as well as true states do."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from policies.matching.table import FORMS, ThresholdTable
from service.calibrate.matching.fit import Bound, excess_of, upper_limit
from service.calibrate.matching.forms import TRUE, WAYS, FormTrial

FORMAT, VERSION = "headstart-form-report", 1
HITS = 0.95
"""Share of the true states' hits that a form must keep to be adequate."""
SAME_LEVEL = 1e-6


@dataclass(frozen=True, slots=True)
class Rate:
    """Bad-hit rate of some hits, its upper confidence limit, and how far their pictures lie from the true states'."""

    hits: int
    rate: float
    upper: float
    distance: float


@dataclass(frozen=True, slots=True)
class WayAtLevel:
    """One way to make states, at one level.

    Attributes:
        skip: the level.
        max_divergence: the table's bound; None where it leaves the level out.
        every: all pairs of differing prompts, the gate open.
        within: those that the gate lets through at the true state.
        served: those that it lets through at the state made this way.
        kept: how many are in `within` and in `served`, of those in `within`; None without any.
        repeats: pairs of the same text that are served: a state with other noise is entered unjudged.
        repeats_kept: how many of them, of all; None without any.
    """

    skip: float
    max_divergence: float | None
    every: Rate
    within: Rate
    served: Rate
    kept: float | None
    repeats: Rate
    repeats_kept: float | None


@dataclass(frozen=True)
class FormReport:
    """What was found, and the most compact adequate form.

    Attributes:
        ways: per way its levels, shallowest first.
        adequate_form: one of `policies.matching.table.FORMS`.
    """

    ways: dict[str, list[WayAtLevel]]
    adequate_form: str

    def save(self, path: Path, table: ThresholdTable, pairs: int) -> None:
        """Write it as JSON, keyed like the table it goes with."""
        report = {
            "format": FORMAT,
            "version": VERSION,
            "key": dict(table.key),
            "judged_at": table.judged_at,
            "table_digest": table.digest,
            "pairs": pairs,
            "metadata": {name: value for name, value in table.metadata.items() if name != "levels"},
            "adequate_form": self.adequate_form,
            "ways": {name: [asdict(level) for level in levels] for name, levels in self.ways.items()},
        }
        draft = path.with_name(path.name + ".part")
        draft.write_text(json.dumps(report, indent=2, sort_keys=True, allow_nan=False) + "\n", "utf-8")
        draft.replace(path)


def fit_forms(trials: Sequence[FormTrial], table: ThresholdTable, bound: Bound) -> FormReport:
    """Hold every way to the bounds of a table.

    A form is adequate when, at every level of the table, the hits that the gate lets through keep the bound with
    confidence, as do repeats of the same text, and at most a twentieth of either are lost. All levels must pass, so
    none costs the others confidence.

    Args:
        trials: of every way.
        table: what the true states are served by.
        bound: what is to be kept.
    """
    judge = _Judge(trials, table, bound)
    ways = {way.name: [judge.level(way.name, skip) for skip in judge.levels(way.name)] for way in WAYS}
    adequate = [form for form in FORMS if _adequate(ways[form], table, bound)]
    return FormReport(ways, adequate[-1] if adequate else TRUE.name)


@dataclass(frozen=True)
class _Judge:
    trials: Sequence[FormTrial]
    table: ThresholdTable
    bound: Bound

    def levels(self, way: str) -> list[float]:
        return sorted({trial.skip for trial in self.trials if trial.way == way})

    def level(self, way: str, skip: float) -> WayAtLevel:
        here = [trial for trial in self.trials if trial.way == way and trial.skip == skip]
        differing, repeats = ([t for t in here if t.repeat is same] for same in (False, True))
        row = next((row for row in self.table.rows if abs(row.skip - skip) <= SAME_LEVEL), None)
        limit = -1.0 if row is None else row.max_divergence
        true = {t.pair for t in self.trials if t.way == TRUE.name and not t.repeat and t.early <= limit}
        within, served = [t for t in differing if t.pair in true], [t for t in differing if t.early <= limit]
        again = [t for t in repeats if row is not None and (way == "final" or t.divergence <= limit)]
        return WayAtLevel(
            skip,
            None if row is None else limit,
            every=self._rate(differing),
            within=self._rate(within),
            served=self._rate(served),
            kept=sum(t.pair in true for t in served) / len(within) if within else None,
            repeats=self._rate(again),
            repeats_kept=len(again) / len(repeats) if repeats and row is not None else None,
        )

    def _rate(self, trials: Sequence[FormTrial]) -> Rate:
        if not trials:
            return Rate(0, 0.0, 1.0, 0.0)
        hit = np.array([trial.resumed for trial in trials], dtype=float)
        one = np.array([trial.full for trial in trials], dtype=float)
        two = np.array([trial.other for trial in trials], dtype=float)
        found = excess_of(hit, one, two, self.bound.visible)
        distance = float(np.mean([trial.distance for trial in trials]))
        return Rate(len(trials), float(found.mean()), upper_limit(found, self.bound.confidence), distance)


def _adequate(levels: Sequence[WayAtLevel], table: ThresholdTable, bound: Bound) -> bool:
    bounded = [level for level in levels if level.max_divergence is not None]
    return bool(bounded) and len(bounded) == len(table.rows) and all(_holds(level, bound) for level in bounded)


def _holds(level: WayAtLevel, bound: Bound) -> bool:
    served = level.kept is not None and level.kept >= HITS and level.served.upper <= bound.rate
    again = level.repeats_kept is None or (level.repeats_kept >= HITS and level.repeats.upper <= bound.rate)
    return served and again
