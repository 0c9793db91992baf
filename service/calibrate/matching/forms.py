"""What noise added anew does to hits: the pairs of a calibration, resumed from states made again, beside true ones.

A state may be made again from a run's clean latent with the run's own noise (`final-noise`) or with other noise
(`final`), or have part of its noise exchanged on request (`JobSpec.diversity`). Every pair is resumed each way at
every level, with the gate open: what the gate would have said, and what the picture came to, is all written down.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cache_store.renoise import held
from cache_store.types import FinalState, NoiseState
from policies.matching.base import StateRef
from service.calibrate.jobs import Advanced
from service.calibrate.matching.trials import Experiment, Numbered, Trial
from service.engine.base import JobResult
from service.forms import Form, kept

ANY_DEPTH = 1_000
"""Source runs of a calibration start from pure noise."""


@dataclass(frozen=True, slots=True)
class Way:
    """How a state comes about: what is kept of its run, and how much of its noise is exchanged."""

    name: str
    form: Form
    diversity: float = 0.0


TRUE = Way("trajectory", "trajectory")
WAYS = (
    TRUE,
    Way("final-noise", "final-noise"),
    Way("final", "final"),
    Way("diversity 0.5", "trajectory", 0.5),
    Way("diversity 1", "trajectory", 1.0),
)
"""True states first; then the forms, from the roomiest to the most compact; then the settings of the knob."""


@dataclass(frozen=True, slots=True)
class FormTrial:
    """One pair, resumed one way at one level.

    Attributes:
        pair: number of the pair; also the seed of its source run.
        way: one of WAYS.
        repeat: whether the texts are the same.
        skip: share of the steps skipped.
        divergence: the gate's value at this level.
        early: the gate's value at the shallowest level, at a state made the same way.
        resumed: judge score of the picture.
        full: of the full run from the source run's own noise.
        other: of a full run from other noise.
        distance: RMS difference of the pixels to the picture from the true state, as a share of their range.
    """

    pair: int
    way: str
    repeat: bool
    skip: float
    divergence: float
    early: float
    resumed: float
    full: float
    other: float
    distance: float


@dataclass(frozen=True)
class FormExperiment:
    """Resumes pairs of a calibration that were not given up, every way.

    Attributes:
        lab: of the calibration.
        found: a trial of each pair, whichever level: it holds the full runs' scores.
    """

    lab: Experiment
    found: Mapping[int, Trial]

    @property
    def jobs_per_pair(self) -> int:
        """Jobs a pair takes."""
        return 1 + len(WAYS) * len(self.lab.run.capture)

    def trials(self, pairs: Sequence[Numbered], advanced: Advanced = lambda _: None) -> list[FormTrial]:
        """Run pairs. Raises RuntimeError: a job failed."""
        sources = self.lab.full([(pair.source, number) for number, pair, _ in pairs], "source", advanced)
        true = self._hits(TRUE, pairs, sources, advanced)
        trials = list(self._judged(TRUE, pairs, true, true))
        for way in WAYS[1:]:
            trials += self._judged(way, pairs, self._hits(way, pairs, sources, advanced), true)
        return trials

    def _hits(
        self, way: Way, pairs: Sequence[Numbered], sources: Sequence[JobResult], advanced: Advanced
    ) -> list[list[JobResult | None]]:
        """Resume every pair at every level, shallowest first."""
        levels = self.lab.run.capture
        given = [
            given_back(source, way.form, number + 1, levels[0])
            for source, (number, _, _) in zip(sources, pairs, strict=True)
        ]
        return [self.lab.hits(pairs, given, level, math.inf, advanced, diversity=way.diversity) for level in levels]

    def _judged(
        self,
        way: Way,
        pairs: Sequence[Numbered],
        hits: Sequence[Sequence[JobResult | None]],
        true: Sequence[Sequence[JobResult | None]],
    ) -> Iterator[FormTrial]:
        for at_level, beside in zip(hits, true, strict=True):
            rows = [
                (row, one, two) for row, (one, two) in enumerate(zip(at_level, beside, strict=True)) if one and two
            ]
            texts = [pairs[row][1].target for row, _, _ in rows]
            scores = self.lab.judge.score([one.image for _, one, _ in rows], texts) if rows else ()
            for (row, hit, reference), score in zip(rows, scores, strict=True):
                found = self.found[pairs[row][0]]
                early = hits[0][row]
                yield FormTrial(
                    pair=found.pair,
                    way=way.name,
                    repeat=found.repeat,
                    skip=hit.skipped / hit.steps,
                    divergence=hit.divergences[0],
                    early=found.early if early is None else early.divergences[0],
                    resumed=float(score),
                    full=found.full,
                    other=found.other,
                    distance=rms(hit.image, reference.image),
                )


def given_back(source: JobResult, form: Form, entry_id: int, judged_at: float) -> JobResult:
    """Return a run with its states as the store gives them back that keeps it in one form, in half precision.

    Args:
        source: the run.
        form: what is kept of it.
        entry_id: what it is kept as; `final` draws its noise by it.
        judged_at: level at which the gate judges.
    """
    states, final = kept(source, form, ANY_DEPTH, judged_at=judged_at)
    given: Sequence[NoiseState | FinalState] = states if final is None else [final] * len(source.captured)
    captured = []
    for state, one in zip(source.captured, given, strict=True):
        ref = StateRef(
            state.log_snr, state.skip, True, state.approximated, "trajectory" if final is None else "final"
        )
        captured.append(replace(state, latent=held(entry_id, one, ref, "fp16").latent))
    return replace(source, captured=tuple(captured))


def rms(picture: NDArray[np.uint8], reference: NDArray[np.uint8]) -> float:
    """Return the RMS difference of two pictures' values, as a share of their range."""
    return float(np.sqrt(np.mean((picture.astype(np.float64) - reference) ** 2)) / 255)
