"""Deterministic solvers of the diffusion ODE, one coefficient triple per row.

Every solver here writes its step as

    x_next = c_x * x + c_0 * x0 + c_1 * x0_previous

where x0 is the network's prediction of the clean latent now and x0_previous the one of the step before. The three
numbers depend only on noise levels, so a batch may mix solvers, step counts and entry points: the coefficients are
worked out row by row in double precision and the update is one vectorised expression.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Half precision's smallest positive number: diffusers' stand-in for a terminal alpha^2 of zero.
SMALLEST_ALPHA_SQUARED = 2.0**-24


@dataclass(frozen=True, slots=True)
class Level:
    """A noise level of the variance-preserving process: x_t = alpha * x0 + sigma * noise."""

    alpha: float
    sigma: float

    @property
    def log_snr(self) -> float:
        """ln(alpha^2 / sigma^2); a terminal alpha of zero counts as 2^-12, a sigma of zero gives infinity."""
        if self.sigma == 0.0:
            return math.inf
        return math.log((self.alpha**2 or SMALLEST_ALPHA_SQUARED) / self.sigma**2)


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One row's step: weights of the latent, of x0 now and of x0 at the step before."""

    latent: float
    denoised: float
    previous: float = 0.0


# (level of the step before or None, level now, next level, is this the last step) -> the row's step
Solver = Callable[[Level | None, Level, Level, bool], Coefficients]


def ddim(before: Level | None, now: Level, after: Level, last: bool) -> Coefficients:
    """DDIM with eta = 0 (Song et al. 2020, arXiv 2010.02502, equation 12).

    Keeps the noise (x - alpha x0) / sigma and moves it to the next level. Needs no memory: resumes exactly.

    Args:
        before: unused.
        now: noise level of the latent.
        after: level to step to.
        last: unused.

    Returns:
        The step's coefficients.
    """
    ratio = after.sigma / now.sigma
    return Coefficients(ratio, after.alpha - ratio * now.alpha)


def dpmpp_2m(before: Level | None, now: Level, after: Level, last: bool) -> Coefficients:
    """DPM-Solver++(2M), midpoint form (Lu et al. 2022, arXiv 2211.01095, algorithm 2).

    The first step has no memory and the last one goes to pure signal, so both are first-order, as in diffusers'
    DPMSolverMultistepScheduler. A resumed run starts with a first-order step as well: the memory of another
    prompt's run would be conditioned on that prompt.

    Args:
        before: level of the step before, None if there was none.
        now: noise level of the latent.
        after: level to step to.
        last: the run ends with this step.

    Returns:
        The step's coefficients.
    """
    if last:
        return Coefficients(0.0, 1.0)
    h = (after.log_snr - now.log_snr) / 2
    weight = -after.alpha * math.expm1(-h)
    if before is None:
        return Coefficients(after.sigma / now.sigma, weight)
    r = (now.log_snr - before.log_snr) / 2 / h
    return Coefficients(after.sigma / now.sigma, weight * (1 + 0.5 / r), -weight * 0.5 / r)


SOLVERS: dict[str, Solver] = {"ddim": ddim, "dpmpp_2m": dpmpp_2m}


def step(
    latents: Tensor, denoised: Tensor, previous: Sequence[Tensor | None], rows: Sequence[Coefficients]
) -> Tensor:
    """Advance every row by its own step.

    Args:
        latents: float32 [B, C, h, w].
        denoised: predicted x0, float32 [B, C, h, w].
        previous: per row the x0 [C, h, w] of the step before, or None.
        rows: per row its coefficients.

    Returns:
        float32 [B, C, h, w] at each row's next level.
    """
    stepped = _column([row.latent for row in rows], latents) * latents
    stepped = stepped + _column([row.denoised for row in rows], latents) * denoised
    if all(row.previous == 0.0 for row in rows):
        return stepped
    # A row without memory has weight 0 there; its own x0 stands in, as anything finite would.
    memory = torch.stack([denoised[i] if kept is None else kept for i, kept in enumerate(previous)])
    return stepped + _column([row.previous for row in rows], latents) * memory


def _column(values: list[float], like: Tensor) -> Tensor:
    return like.new_tensor(values).view(-1, 1, 1, 1)
