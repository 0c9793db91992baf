"""When everything inside will be finished, if nobody else comes: the engine's own rules, played in advance.

Jobs of a group step together, up to the batch's bounds; groups take turns; waiting tenants are served by fair share
(`FairShare`). Steps are counted in whole joint rounds between two finishing jobs, so a forecast costs one round per
job, not per step. Decoding is a stage of its own where it goes on beside the steps (Mooncake's prefill and decode
pools, arXiv 2407.00079, are that at another scale), or a pause between two rounds where both share one device.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

from policies.admission.base import Load, Work
from policies.admission.fair_share import FairShare

_NEARLY_NONE = 1e-9


@dataclass(frozen=True, slots=True)
class Finish:
    """When one picture passes its stages, in seconds from now.

    Attributes:
        denoised: its last step is done.
        done: it is decoded.
    """

    denoised: float
    done: float


@dataclass(slots=True)
class _Row:
    index: int
    work: Work
    left: float


class _Play:
    """The state of a forecast on its way.

    Args:
        load: its bounds and pace.
        jobs: what is to be done, in order of arrival.
        limit: seconds from now at which to stop.
    """

    def __init__(self, load: Load, jobs: Sequence[Work], limit: float = math.inf) -> None:
        self._load = load
        self._jobs = jobs
        self._limit = limit
        self._clock = 0.0
        self._decoder_free = 0.0
        self._groups = len({job.group for job in jobs})
        self.active: list[_Row] = []
        self.finishes: list[Finish | None] = [None] * len(jobs)
        waiting = [index for index, job in enumerate(jobs) if not job.entered]
        costs = [(jobs[index].tenant, _cost(jobs[index])) for index in waiting]
        self._waiting = [waiting[place] for place in FairShare[str]().order(costs)]
        for index, job in enumerate(jobs):
            if job.entered:
                self._enter(index)

    def run(self) -> None:
        """Play to the end, or to the limit."""
        while (self.active or self._waiting) and self._clock < self._limit:
            self._admit()
            self._step()

    def _enter(self, index: int) -> None:
        self.active.append(_Row(index, self._jobs[index], self._jobs[index].steps))

    def _admit(self) -> None:
        if not self._waiting or len(self.active) >= self._load.slots * self._groups:
            return
        jobs, pixels = self._filled()
        kept = []
        for index in self._waiting:
            work = self._jobs[index]
            count, full = jobs[work.group], pixels[work.group]
            if count and (count >= self._load.slots or full + work.pixels > self._load.pixels):
                kept.append(index)
                continue
            jobs[work.group] += 1
            pixels[work.group] += work.pixels
            self._enter(index)
        self._waiting = kept

    def _filled(self) -> tuple[Counter[Hashable], defaultdict[Hashable, float]]:
        jobs: Counter[Hashable] = Counter()
        pixels: defaultdict[Hashable, float] = defaultdict(float)
        for row in self.active:
            jobs[row.work.group] += 1
            pixels[row.work.group] += row.work.pixels
        return jobs, pixels

    def _step(self) -> None:
        """Advance everybody until the next is finished, or to the limit."""
        _, pixels = self._filled()
        each = sum(map(self._load.pace.seconds, pixels.values()))
        rounds = min(row.left for row in self.active)
        end = self._clock + rounds * each
        if end > self._limit:
            rounds, end = (self._limit - self._clock) / each, self._limit
        self._clock = end
        for row in self.active:
            row.left -= rounds
        done = [row for row in self.active if row.left <= _NEARLY_NONE]
        self.active = [row for row in self.active if row.left > _NEARLY_NONE]
        for row in done:
            self.finishes[row.index] = self._decode(row.work.decode_seconds)

    def _decode(self, seconds: float) -> Finish:
        denoised = self._clock
        if self._load.beside:
            self._decoder_free = max(self._decoder_free, denoised) + seconds
            return Finish(denoised, self._decoder_free)
        self._clock += seconds
        return Finish(denoised, self._clock)

    def rest(self) -> tuple[Work, ...]:
        """Return what is left at the limit, in order of arrival."""
        left = {row.index: row.left for row in self.active}
        rest = []
        for index, (work, finish) in enumerate(zip(self._jobs, self.finishes, strict=True)):
            if finish is None:
                rest.append(replace(work, steps=left.get(index, work.steps), entered=work.entered or index in left))
            elif finish.done > self._limit:
                decode = min(work.decode_seconds, finish.done - self._limit)
                rest.append(replace(work, steps=0.0, decode_seconds=decode, entered=True))
        return tuple(rest)


def forecast(load: Load) -> list[Finish]:
    """Return when each of `load.jobs`, then of `load.promised`, is finished, if nobody else comes."""
    play = _Play(load, [*load.jobs, *load.promised])
    play.run()
    return [finish for finish in play.finishes if finish is not None]


def forecast_with(asked: Work, load: Load) -> list[Finish]:
    """Return the same with `asked` come last; its own finish is the last."""
    return forecast(replace(load, promised=(*load.promised, asked)))


def finish_of(asked: Work, load: Load) -> Finish:
    """Return when `asked`, come last, would be finished."""
    return forecast_with(asked, load)[-1]


def later(load: Load, seconds: float) -> Load:
    """Return what is left of the jobs inside after `seconds`, if nobody else comes; promises stay as they are."""
    play = _Play(load, load.jobs, seconds)
    play.run()
    return replace(load, jobs=tuple(replace(job, due=job.due - seconds) for job in play.rest()))


def alone(work: Work, load: Load) -> float:
    """Return how long `work` takes with the device to itself, in seconds."""
    return work.steps * load.pace.seconds(work.pixels) + work.decode_seconds


def _cost(work: Work) -> float:
    return work.steps * work.pixels / work.weight
