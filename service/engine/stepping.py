"""The step after a joint forward: vectorised rows together, rows with a scheduler of their own one by one."""

import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from service.engine.foreign import ForeignRun
from service.engine.job import Job
from service.engine.solvers import Update, step
from service.logs import fields_of

logger = logging.getLogger(__name__)


def step_rows(jobs: Sequence[Job], latents: Tensor, denoised: Tensor) -> tuple[Tensor, Tensor, list[Update]]:
    """Step every row by its own solver.

    Args:
        jobs: of the rows.
        latents: float32 [B, C, h, w].
        denoised: predicted x0, float32 [B, C, h, w].

    Returns:
        Latents at each row's next level and corrected latents, both float32 [B, C, h, w], and what was done to each
        vectorised row.
    """
    updates = [job.update() for job in jobs]
    noises = [job.fresh_noise() for job in jobs]
    stepped, corrected = step(latents, denoised, [job.memory for job in jobs], updates, noises)
    if any(job.route.foreign for job in jobs):
        rows = list(stepped)
        for row, job in enumerate(jobs):
            if job.route.foreign is not None:
                rows[row] = _own_step(job, job.route.foreign, latents[row], denoised[row])
        stepped = torch.stack(rows)
    return stepped, corrected, updates


def _own_step(job: Job, run: ForeignRun, latent: Tensor, denoised: Tensor) -> Tensor:
    """A scheduler that raises must not take its batch mates along: its row is no longer finite, and treated so."""
    try:
        return run.step(job.index, latent, denoised, job.generator())
    except torch.AcceleratorError:
        raise
    except Exception as error:
        logger.error("the scheduler of job %s failed", job.spec.job_id, extra=fields_of(error))
        return torch.full_like(latent, math.nan)
