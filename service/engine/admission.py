"""Which waiting jobs may enter the loop: a budget per joint batch, and nobody is held up by another shape."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from service.engine.base import Group, JobSpec, ModelInfo

# Groups that step in turn; with more of them each would wait too long for its turn.
MAX_GROUPS = 8


@dataclass(frozen=True, slots=True)
class Budget:
    """What one joint batch may hold.

    Attributes:
        jobs: most jobs.
        pixels: most pixels a step may work on, see `step_pixels`. One job always fits.
        features: most bytes feature caching may remember for all active jobs, whatever their batch. One always fits.
    """

    jobs: int
    pixels: int
    features: int = 0


def step_pixels(spec: JobSpec, info: ModelInfo) -> int:
    """Return width x height of the picture, twice where classifier-free guidance needs a second network row."""
    return spec.width * spec.height * (1 + info.guided(spec.guidance_scale))


def budget_for(info: ModelInfo, jobs: int, pixels: int, features: int = 0) -> Budget:
    """Return the budget of a deployment.

    Args:
        info: the model.
        jobs: most jobs in a joint batch.
        pixels: most pixels; 0 = as many as `jobs` guided pictures of the model's default size have.
        features: most bytes feature caching may remember.
    """
    return Budget(jobs, pixels or 2 * jobs * info.width * info.height, features)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that has not entered yet; `submitted` is time.monotonic() when the client asked."""

    spec: JobSpec
    submitted: float


class WaitingRoom:
    """Jobs in the order of their arrival.

    Each group (what may share a forward) fills its own joint batch, first come, first served, so a full group or one
    large picture never keeps another group out. Only when `MAX_GROUPS` are active, or the active ones' LoRAs leave no
    room for more, does a job of yet another group wait, and then nobody passes it.

    Args:
        budget: of one joint batch.
        info: the model.
        most_loras: LoRAs that all active groups together may use, so that none is unloaded between two steps.
        feature_bytes: reckons the bytes feature caching will remember for a job.
    """

    def __init__(
        self,
        budget: Budget,
        info: ModelInfo,
        most_loras: int,
        feature_bytes: Callable[[JobSpec], int] = lambda spec: 0,
    ) -> None:
        self._feature_bytes = feature_bytes
        self._most_loras = most_loras
        self._budget = budget
        self._info = info
        self._jobs: list[Waiting] = []

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, spec: JobSpec, submitted: float) -> None:
        """Queue a job."""
        self._jobs.append(Waiting(spec, submitted))

    def cancel(self, job_id: str) -> None:
        """Forget a job, if it waits."""
        self._jobs = [job for job in self._jobs if job.spec.job_id != job_id]

    def overdue(self, now: float) -> list[JobSpec]:
        """Remove and return the jobs whose deadline has passed."""
        late = [job.spec for job in self._jobs if job.spec.overdue(now)]
        if late:
            self._jobs = [job for job in self._jobs if not job.spec.overdue(now)]
        return late

    def admit(self, active: Sequence[JobSpec]) -> list[Waiting]:
        """Remove and return the jobs that may enter now, in order.

        Args:
            active: specs of the jobs in the loop.
        """
        entering = list(self._fitting(active))
        if entering:
            chosen = {id(job) for job in entering}
            self._jobs = [job for job in self._jobs if id(job) not in chosen]
        return entering

    def _fitting(self, active: Sequence[JobSpec]) -> Iterator[Waiting]:
        jobs: Counter[Group] = Counter()
        pixels: Counter[Group] = Counter()
        for spec in active:
            jobs[spec.group] += 1
            pixels[spec.group] += step_pixels(spec, self._info)
        remembered = sum(map(self._feature_bytes, active))
        loras = {lora for spec in active for lora in spec.files}
        full: set[Group] = set()
        short = False
        for waiting in self._jobs:
            group, cost = waiting.spec.group, step_pixels(waiting.spec, self._info)
            if group in full:
                continue
            files = loras | waiting.spec.files
            crowded = len(jobs) >= MAX_GROUPS or len(files) > self._most_loras
            if jobs and group not in jobs and crowded:
                return
            room = jobs[group] < self._budget.jobs and pixels[group] + cost <= self._budget.pixels
            if jobs[group] and not room:
                full.add(group)
                continue
            wanted = self._feature_bytes(waiting.spec)
            short |= bool(wanted and remembered and remembered + wanted > self._budget.features)
            if short and wanted:
                # Only those that remember nothing pass.
                continue
            jobs[group] += 1
            pixels[group] += cost
            remembered += wanted
            loras = files
            yield waiting
