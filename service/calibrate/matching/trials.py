"""What resuming does to pictures: pairs of prompts, each resumed at every level, beside full runs."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import Field, asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from service.calibrate.driver import CalibrationError
from service.calibrate.jobs import Advanced, JobRunner, RunSettings, nearest_state, resume_point, resumed, text_jobs
from service.calibrate.matching.pairs import MatchPair
from service.engine.base import JobResult
from service.engine.job import capture_steps
from service.judges import Judge

BLOCK = 32
"""Pairs between two writes of what is done."""
HOPELESS = 0.8
OTHER_SEED = 2**31
"""Added to a pair's seed for the run from other noise."""

Scores = list[float]
Numbered = tuple[int, MatchPair, float]
"""A pair with its number and the similarity of its prompts."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One pair, resumed at one level, and what its picture could have been.

    Attributes:
        pair: number of the pair; also the seed of its source run.
        kind: how the prompts differ.
        repeat: whether the texts are the same.
        similarity: cosine of the prompt embeddings.
        skip: share of the steps skipped.
        divergence: the gate's value at this level.
        early: the gate's value at the shallowest level.
        resumed: judge score of the resumed picture, like all others against the new prompt; NaN for all where the
            pair was given up because it diverges too far (then `early` is infinite).
        full: of the full run from the source run's own noise: the very run a right hit is the end of.
        other: of a full run from other noise.
        neighbour: of the source run's picture.
    """

    pair: int
    kind: str
    repeat: bool
    similarity: float
    skip: float
    divergence: float
    early: float
    resumed: float
    full: float
    other: float
    neighbour: float


def distinct_levels(shares: Sequence[float], steps: int) -> tuple[float, ...]:
    """The shares an N-step run can be entered at: k / N of the steps nearest to `shares`, each once."""
    return tuple(k / steps for k in capture_steps(tuple(shares), steps))


@dataclass(frozen=True)
class Experiment:
    """All that a trial's figures depend on, but for the pair.

    Attributes:
        runner: the engine.
        judge: of the pictures.
        run: N, solver and guidance; its `capture` are the levels, shallowest first.
        hopeless: early divergence above which a pair is given up: no table will serve it.
        pictures: told of each block's pictures, for a contact sheet.
    """

    runner: JobRunner
    judge: Judge
    run: RunSettings
    hopeless: float = HOPELESS
    pictures: Callable[["Block"], None] = lambda _: None

    @property
    def jobs_per_pair(self) -> int:
        """Jobs a pair takes."""
        return 3 + len(self.run.capture)

    def trials(self, pairs: Sequence[Numbered], advanced: Advanced = lambda _: None) -> list[Trial]:
        """Run pairs; those the judge cannot read give no trials.

        Raises:
            RuntimeError: a job failed.
        """
        block = Block.run(self, pairs, advanced)
        self.pictures(block)
        return list(block.trials())

    def full(self, prompts: Sequence[tuple[str, int]], tag: str, advanced: Advanced) -> list[JobResult]:
        """Run prompts with seeds in full; all capture, since where a latent is rounded is part of the picture."""
        texts, seeds = [text for text, _ in prompts], [seed for _, seed in prompts]
        return self.runner.run_all(text_jobs(texts, seeds, self.run, self.runner.info, tag), advanced)

    def hits(
        self,
        pairs: Sequence[Numbered],
        sources: Sequence[JobResult],
        level: float,
        limit: float,
        advanced: Advanced,
        *,
        diversity: float = 0.0,
    ) -> list[JobResult | None]:
        """Resume every pair at a level; None where the divergence there is above `limit`.

        Args:
            pairs: whose targets to draw.
            sources: what each is resumed from.
            level: share of the steps to skip.
            limit: largest divergence.
            advanced: told how many jobs are done.
            diversity: see `JobSpec.diversity`; a level that saves but one step gives None for all, above 0.
        """
        texts = [pair.target for _, pair, _ in pairs]
        seeds = [number + OTHER_SEED for number, _, _ in pairs]
        drawn = text_jobs(texts, seeds, self.run, self.runner.info, f"hit{diversity:g}")
        plain = [replace(spec, diversity=diversity) for spec in drawn]
        points = [resume_point(nearest_state(source.captured, level), limit) for source in sources]
        entering = [resumed(spec, [point], f"at{level}") for spec, point in zip(plain, points, strict=True)]
        return self.runner.run_judged(entering, advanced)


@dataclass(frozen=True)
class Block:
    """Some pairs with their runs and scores; `hits` and `resumed` by level, the shallowest first."""

    pairs: Sequence[Numbered]
    hopeless: Sequence[Numbered]
    sources: list[JobResult]
    fulls: list[JobResult]
    hits: list[list[JobResult]]
    full: Scores
    other: Scores
    neighbour: Scores
    resumed: list[Scores]

    @classmethod
    def run(cls, lab: Experiment, pairs: Sequence[Numbered], advanced: Advanced) -> "Block":
        """Make all pictures and have them judged."""
        sources = lab.full([(pair.source, number) for number, pair, _ in pairs], "source", advanced)
        first = lab.hits(pairs, sources, lab.run.capture[0], lab.hopeless, advanced)
        kept = [row for row, hit in enumerate(first) if hit is not None]
        given_up = [pair for pair, hit in zip(pairs, first, strict=True) if hit is None]
        advanced(len(given_up) * (lab.jobs_per_pair - 2))
        pairs, sources = [pairs[row] for row in kept], [sources[row] for row in kept]
        targets = [pair.target for _, pair, _ in pairs]
        fulls = lab.full([(pair.target, number) for number, pair, _ in pairs], "full", advanced)
        others = lab.full([(pair.target, number + OTHER_SEED) for number, pair, _ in pairs], "other", advanced)
        hits = [[hit for hit in first if hit is not None]]
        for level in lab.run.capture[1:]:
            hits.append([hit for hit in lab.hits(pairs, sources, level, math.inf, advanced) if hit is not None])

        def score(results: Sequence[JobResult]) -> Scores:
            return [float(one) for one in lab.judge.score([result.image for result in results], targets)]

        every = (score(fulls), score(others), score(sources), [score(results) for results in hits])
        return cls(pairs, given_up, sources, fulls, hits, *every)

    def trials(self) -> Iterator[Trial]:
        """One trial per pair and level, and one per pair given up."""
        for row, (number, pair, similarity) in enumerate(self.pairs):
            early = self.hits[0][row].divergences[0]
            for hits, scores in zip(self.hits, self.resumed, strict=True):
                hit = hits[row]
                figures = (scores[row], self.full[row], self.other[row], self.neighbour[row])
                if not all(map(math.isfinite, figures)):
                    continue
                skip = hit.skipped / hit.steps
                yield Trial(number, pair.kind, pair.repeat, similarity, skip, hit.divergences[0], early, *figures)
        for number, pair, similarity in self.hopeless:
            yield Trial(number, pair.kind, pair.repeat, similarity, 0.0, math.inf, math.inf, *[math.nan] * 4)


class OfPair(Protocol):
    """A dataclass of plain values about one pair."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def pair(self) -> int:
        """Number of the pair."""
        ...


Kept = TypeVar("Kept", bound=OfPair)


class Notebook(Generic[Kept]):
    """Trials on disk, block by block, so that an interrupted calibration goes on where it stopped.

    The first line says what they are trials of; a notebook of anything else, or of other pairs, is refused. More
    pairs of the same file may be added later. A pair that was written down twice counts once.
    """

    def __init__(
        self, path: Path, about: Mapping[str, Any], pairs: Sequence[MatchPair], kind: Callable[..., Kept]
    ) -> None:
        """Open or begin `path`; `kind` makes a trial.

        Raises:
            CalibrationError: it holds trials of something else, or cannot be read.
        """
        self._path = path
        self._pairs = pairs
        self._kind = kind
        self.trials: list[Kept] = []
        self.done: set[int] = set()
        lines = self._lines()
        if lines:
            self._read(dict(about), lines)
        else:
            path.write_text(json.dumps({"about": dict(about)}) + "\n", "utf-8")

    def _lines(self) -> list[str]:
        """The whole lines; the last one may have been cut, and is taken off."""
        if not self._path.is_file():
            return []
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self._path, len(whole))
        return whole.decode("utf-8", "replace").splitlines()

    def _read(self, about: dict[str, Any], lines: Sequence[str]) -> None:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                same = row["about"] == about if number == 1 else self._take(row)
            except (ValueError, KeyError, TypeError) as error:
                raise CalibrationError(
                    f"{self._path}, line {number}: not what a calibration wrote; move the file away"
                ) from error
            if not same:
                raise CalibrationError(
                    f"{self._path} holds trials of another model, judge or settings, or of other prompts: "
                    "move it away"
                )

    def _take(self, row: Mapping[str, Any]) -> bool:
        """Take over the trials of a row's pairs, as far as they are wanted; False where a pair is another one."""
        told = dict(zip(row["pairs"], row["texts"], strict=True))
        wanted = [number for number in told if number < len(self._pairs)]
        if any(told[number] != self._digest(number) for number in wanted):
            return False
        fresh = set(wanted) - self.done
        self.trials += [self._kind(**trial) for trial in row["trials"] if trial["pair"] in fresh]
        self.done |= fresh
        return True

    def add(self, pairs: Sequence[int], trials: Sequence[Kept]) -> None:
        """Write down the trials of some pairs."""
        shown = [asdict(trial) for trial in trials]
        row = {"pairs": list(pairs), "texts": [self._digest(number) for number in pairs], "trials": shown}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        self.done.update(pairs)
        self.trials += trials

    def _digest(self, number: int) -> str:
        texts = json.dumps((self._pairs[number].source, self._pairs[number].target))
        return hashlib.sha256(texts.encode()).hexdigest()[:16]
