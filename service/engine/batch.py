"""Joint evaluations that survive a full device: all rows at once, else halves, else one by one."""

import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from service.engine.base import Condition, Group, Rows
from service.engine.job import Job
from service.engine.lora import LoraError
from service.logs import fields_of

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Done(Generic[T]):
    """A joint evaluation that worked."""

    jobs: list[Job]
    value: T


@dataclass(frozen=True, slots=True)
class Broken:
    """One job whose evaluation failed even alone."""

    job: Job
    code: str


def join(jobs: Sequence[Job]) -> Rows:
    """Stack jobs of one group into a batch, whatever step, N, guidance or solver each has."""
    latents = torch.stack([job.latent for job in jobs])
    levels = [job.route.levels[job.index] for job in jobs]
    return Rows(
        latents=latents,
        timesteps=latents.new_tensor([job.route.times[job.index] for job in jobs]),
        alphas=latents.new_tensor([level.alpha for level in levels]),
        sigmas=latents.new_tensor([level.sigma for level in levels]),
        conditions=_stack([job.condition for job in jobs]),
        negatives=_stack([job.negative for job in jobs]),
        guidance=latents.new_tensor([job.spec.guidance_scale for job in jobs]),
        loras=jobs[0].spec.loras,
        features=tuple(job.features for job in jobs) if any(job.features for job in jobs) else (),
    )


def shares(jobs: Sequence[Job]) -> list[list[Job]]:
    """Return which jobs go through a network together: all that may, and each isolated one alone."""
    joint = [job for job in jobs if not job.spec.isolated]
    alone = [[job] for job in jobs if job.spec.isolated]
    return [joint, *alone] if joint else alone


def _stack(conditions: Sequence[Condition]) -> Condition:
    return {name: torch.stack([condition[name] for condition in conditions]) for name in conditions[0]}


class Evaluator:
    """Runs joint evaluations; a chunk that fails is split and tried again.

    A failure in a joint batch does not tell whose it is, and a full device may manage fewer rows, so both end the
    same way: halves, down to single jobs, and only a job that fails alone is broken.

    Args:
        limit: most jobs in one evaluation.
    """

    def __init__(self, limit: int) -> None:
        self._full = limit
        self._limits: dict[Group, int] = {}

    def forget(self, all_but: Collection[Group] = ()) -> None:
        """Forget that memory was short, but for some groups."""
        self._limits = {group: limit for group, limit in self._limits.items() if group in all_but}

    def evaluate(
        self, jobs: list[Job], call: Callable[[list[Job]], T], most: int | None = None
    ) -> Iterator[Done[T] | Broken]:
        """Evaluate all jobs, as few chunks as memory allows.

        Args:
            jobs: of one group.
            call: evaluates a chunk of them.
            most: jobs in a chunk, as far as known beforehand.

        Yields:
            One Done per chunk that worked, one Broken per job that failed alone.

        Raises:
            torch.AcceleratorError: the device itself is broken; only a new process helps.
        """
        pending = deque(jobs)
        largest = self._full if most is None else most
        size = largest
        while pending:
            limit = self._limits.get(jobs[0].spec.group, self._full)
            chunk = [pending.popleft() for _ in range(min(size, limit, len(pending)))]
            try:
                value = call(chunk)
            except torch.AcceleratorError:
                raise
            except Exception as error:
                broken = self._note(chunk, error)
            else:
                yield Done(chunk, value)
                size = largest
                continue
            # Outside the except block, so that the failed attempt's tensors are free before the next one.
            _release_memory()
            if broken is not None:
                yield broken
            else:
                pending.extendleft(reversed(chunk))
                size = (len(chunk) + 1) // 2

    def _note(self, chunk: list[Job], error: Exception) -> Broken | None:
        code = failure_code(error)
        if len(chunk) == 1:
            logger.error("job %s failed (%s)", chunk[0].spec.job_id, code, extra=fields_of(error))
            return Broken(chunk[0], code)
        logger.warning("a batch of %d jobs failed (%s); trying halves", len(chunk), code)
        if code == "out-of-memory":
            self._limits[chunk[0].spec.group] = (len(chunk) + 1) // 2
        return None


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def failure_code(error: Exception) -> str:
    """Return "out-of-memory", "internal", or the code of a LoRA that cannot be used."""
    if isinstance(error, LoraError):
        return error.code
    # The CPU allocator raises a bare RuntimeError.
    full = isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
    return "out-of-memory" if full else "internal"
