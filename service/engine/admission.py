"""Which waiting jobs may enter the loop: a budget per joint batch, and nobody is held up by another shape."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from policies.admission.fair_share import FairShare
from service.engine.base import Group, JobSpec, ModelInfo

# Groups that step in turn; with more of them each would wait too long for its turn.
MAX_GROUPS = 8
# Device seconds a step is taken to need per pixel until one has been measured.
NOMINAL_RATE = 1e-7
# Weight of the newest job in the running mean of that rate.
SMOOTHING = 0.2


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
    """Jobs in the order of their arrival, those of several tenants in turn.

    Tenants get equal device time, times their weight, however many jobs each of them sends (`FairShare`): a job is
    booked at what it should take when it enters, and at what it took when it leaves.

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
        self._tenants: FairShare[str] = FairShare()
        self._booked: dict[str, float] = {}
        self._rate = 0.0

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
        if not self._jobs:
            return []
        self._tenants.keep([*(spec.tenant for spec in active), *(job.spec.tenant for job in self._jobs)])
        entering = list(self._fitting(active))
        for job in entering:
            self._book(job.spec)
        if entering:
            chosen = {id(job) for job in entering}
            self._jobs = [job for job in self._jobs if id(job) not in chosen]
        return entering

    def settle(self, spec: JobSpec, seconds: float) -> None:
        """Replace what a job that entered was booked at by the device time it took."""
        booked = self._booked.pop(spec.job_id, None)
        if booked is None:
            return
        self._tenants.charge(spec.tenant, (seconds - booked) / spec.weight)
        if seconds > 0:
            rate = seconds / max(1, spec.foreseen_steps * step_pixels(spec, self._info))
            self._rate += (rate - self._rate) * (SMOOTHING if self._rate else 1.0)

    def _book(self, spec: JobSpec) -> None:
        self._booked[spec.job_id] = self._cost(spec)
        self._tenants.charge(spec.tenant, self._cost(spec) / spec.weight)

    def _cost(self, spec: JobSpec) -> float:
        """Device seconds a job should take."""
        return spec.foreseen_steps * step_pixels(spec, self._info) * (self._rate or NOMINAL_RATE)

    def _in_turn(self) -> list[Waiting]:
        """Return the jobs in the order in which they are owed their turn."""
        if len({job.spec.tenant for job in self._jobs}) == 1:
            return self._jobs
        costs = [(job.spec.tenant, self._cost(job.spec) / job.spec.weight) for job in self._jobs]
        return [self._jobs[index] for index in self._tenants.order(costs)]

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
        for waiting in self._in_turn():
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
