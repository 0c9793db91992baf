"""The noise schedules of trained models, read through diffusers' own schedulers: one grid of levels per solver."""

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from service.engine.foreign import FLOW_FOREIGN, METHODS, ForeignRun, ForeignSchedules, enter
from service.engine.levels import Grid, Level

# What of a scheduler's configuration decides noise levels and time values.
SCHEDULE_KEYS = (
    "num_train_timesteps",
    "beta_start",
    "beta_end",
    "beta_schedule",
    "trained_betas",
    "set_alpha_to_one",
    "steps_offset",
    "timestep_spacing",
    "rescale_betas_zero_snr",
)
# Spacings of their own, chosen by a switch; only those that are on count.
SPACING_SWITCHES = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")
FLOW_KEYS = (
    "num_train_timesteps",
    "shift",
    "use_dynamic_shifting",
    "base_shift",
    "max_shift",
    "base_image_seq_len",
    "max_image_seq_len",
    "invert_sigmas",
    "shift_terminal",
    "time_shift_type",
)
DISCRETE_SOLVERS = ("ddim", "euler", "dpmpp_2m", "unipc", "euler_ancestral")
FLOW_SOLVERS = ("flow_match_euler", "dpmpp_2m", "unipc")
# The share of noise that stands in for 1 where ln(1 - share) is needed: in float32, as diffusers keeps its shares.
NEARLY_NOISE = float(np.float32(1 - 1e-6))
_SCHEDULERS = {
    "euler": EulerDiscreteScheduler,
    "euler_ancestral": EulerAncestralDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}


class NoiseSchedule:
    """The discrete variance-preserving schedule of Stable Diffusion, SDXL, PixArt and their like.

    Where N does not divide the number of training steps, diffusers' DDIM steps to t - T // N although its next
    evaluation is at another time (up to one training step off with trailing spacing); here a step always ends at the
    level the network is told next.

    Args:
        config: configuration of any of diffusers' schedulers for the model.

    Attributes:
        name: stable, of what decides noise levels and time values.
        prediction_type: of the network.
        solvers: vectorised ones, then those of diffusers' schedulers that work with this configuration.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = dict(config)
        self._ddim = DDIMScheduler.from_config(config)
        kept = {key: self._ddim.config[key] for key in SCHEDULE_KEYS}
        kept |= {key: True for key in SPACING_SWITCHES if self._config.get(key)}
        self.name = f"{kept['beta_schedule']}-{kept['timestep_spacing']}-{_digest(kept)}"
        self.prediction_type = str(self._ddim.config.prediction_type)
        # 1 - a in float32, as trained.
        self._table = [_level(a) for a in self._ddim.alphas_cumprod]
        self._end = _level(self._ddim.final_alpha_cumprod)
        self._grids: dict[tuple[str, int], Grid] = {}
        self._foreign = ForeignSchedules(config, self.prediction_type, self.level)
        self.solvers = (*DISCRETE_SOLVERS, *self._foreign.names)

    def level(self, timestep: float) -> Level:
        """Return the noise level at a time value; between whole steps sigma / alpha is linear, as in Euler."""
        below = min(max(math.floor(timestep), 0), len(self._table) - 1)
        share = timestep - below
        if share <= 0 or below + 1 == len(self._table):
            return self._table[below]
        ratios = [level.ratio for level in self._table[below : below + 2]]
        return Level.of_ratio(ratios[0] + share * (ratios[1] - ratios[0]))

    def grid(self, solver: str, steps: int) -> Grid:
        """Return the N time values and N + 1 levels of diffusers' scheduler for `solver`.

        Args:
            solver: one of DISCRETE_SOLVERS.
            steps: N.

        Raises:
            ValueError: N is larger than the number of training steps.
        """
        key = (solver, steps)
        if key not in self._grids:
            # At most one per solver and N, and N is bounded.
            self._grids[key] = self._ddim_grid(steps) if solver == "ddim" else self._grid_of(solver, steps)
        return self._grids[key]

    def foreign(self, solver: str, steps: int, entry: float | None) -> ForeignRun:
        """Return a fresh scheduler of diffusers' for one attempt of a job; see `ForeignSchedules.run`."""
        return self._foreign.run(solver, steps, entry)

    def _grid_of(self, solver: str, steps: int) -> Grid:
        scheduler = _SCHEDULERS[solver].from_config(self._config)
        scheduler.set_timesteps(steps)
        times = _proper(scheduler.timesteps, steps)
        if any(self._config.get(key) for key in SPACING_SWITCHES):
            # Its times are rounded; the levels are what it means.
            levels = tuple(Level.of_ratio(float(sigma)) for sigma in scheduler.sigmas[:steps])
        else:
            levels = tuple(self.level(t) for t in times)
        return Grid(times, (*levels, Level(1.0, 0.0)), _start(scheduler, levels[0]))

    def _ddim_grid(self, steps: int) -> Grid:
        self._ddim.set_timesteps(steps)
        times = _proper(self._ddim.timesteps, steps)
        return Grid(times, (*(self.level(t) for t in times), self._end))


class FlowSchedule:
    """The schedule of rectified-flow models: x = (1 - s) x0 + s noise at time value 1000 s.

    Args:
        config: configuration of the model's FlowMatchEulerDiscreteScheduler.
        linear: the family's pipeline hands its scheduler linear shares 1 … 1/N instead of leaving them to it.
    """

    def __init__(self, config: Mapping[str, Any], *, linear: bool) -> None:
        self._scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        self._linear = linear
        self._config = self._scheduler.config
        kept = {key: self._config[key] for key in FLOW_KEYS} | {"linear": linear}
        kept |= {key: True for key in SPACING_SWITCHES if self._config.get(key)}
        self.name = f"flow-{_digest(kept)}"
        self.prediction_type = "flow"
        self.solvers = (*FLOW_SOLVERS, *FLOW_FOREIGN)

    def level(self, timestep: float) -> Level:
        """Return the noise level at a time value, whole or fractional."""
        return Level.of_flow(min(max(timestep / int(self._config.num_train_timesteps), 0.0), 1.0))

    def grid(self, solver: str, steps: int, tokens: int) -> Grid:
        """Return the N time values and N + 1 levels of diffusers' FlowMatchEulerDiscreteScheduler.

        Every solver walks through them. Those that need the logarithm of the first level start from a share of noise
        of 1 - 1e-6 instead of 1, as diffusers' UniPCMultistepScheduler does.

        Args:
            solver: one of FLOW_SOLVERS.
            steps: N.
            tokens: image tokens of the transformer, which move the noise levels of models with dynamic shifting.
        """
        linear = np.linspace(1.0, 1 / steps, steps) if self._linear else None
        mu = self._mu(tokens) if self._config.use_dynamic_shifting else None
        self._scheduler.set_timesteps(None if self._linear else steps, sigmas=linear, mu=mu)
        shares = [float(share) for share in self._scheduler.sigmas]
        if solver != "flow_match_euler":
            shares[0] = min(shares[0], NEARLY_NOISE)
        levels = tuple(Level.of_flow(share) for share in shares)
        # diffusers starts from unit noise, whatever the first share.
        start = levels[0].alpha + levels[0].sigma
        return Grid(tuple(float(t) for t in self._scheduler.timesteps), levels, start)

    def foreign(self, solver: str, steps: int, tokens: int, entry: float | None) -> ForeignRun:
        """Return a fresh scheduler of diffusers' for one attempt of a job, on the levels that `grid` gives.

        Args:
            solver: one of FLOW_FOREIGN.
            steps: N.
            tokens: image tokens of the transformer.
            entry: time value of the state it enters at; None = from pure noise.
        """
        method, count = METHODS[solver], int(self._config.num_train_timesteps)
        times = torch.tensor(self.grid("flow_match_euler", steps, tokens).times)
        scheduler = method.make(num_train_timesteps=count)
        scheduler.set_timesteps(steps)
        scheduler.timesteps = torch.cat([times[:1], times[1:].repeat_interleave(2)])
        scheduler.sigmas = torch.cat([scheduler.timesteps / count, torch.zeros(1)])
        scheduler.set_begin_index(0)
        first = 0 if entry is None else enter(method, scheduler, entry, entry / count)
        return ForeignRun(method, scheduler, first, self.level)

    def _mu(self, tokens: int) -> float:
        """Linear in the number of tokens (Esser et al. 2024, arXiv 2403.03206, section 5.3.2, as FLUX uses it)."""
        few, many = self._config.base_image_seq_len, self._config.max_image_seq_len
        low, high = self._config.base_shift, self._config.max_shift
        slope = (high - low) / (many - few)
        return float(tokens * slope + (low - slope * few))


def _start(scheduler: Any, first: Level) -> float:
    """What diffusers' variance-exploding schedulers make of unit noise, in variance-preserving form."""
    if isinstance(scheduler, EulerDiscreteScheduler | EulerAncestralDiscreteScheduler):
        return float(scheduler.init_noise_sigma) / math.sqrt(1 + first.ratio**2)
    return 1.0


def _proper(times: torch.Tensor, steps: int) -> tuple[float, ...]:
    """Rounding gives diffusers' trailing spacing one time too many for some N (61, 103, …): -1, past the end."""
    return tuple(float(t) for t in times[times >= 0][:steps])


def _level(alpha_squared: torch.Tensor) -> Level:
    return Level(math.sqrt(float(alpha_squared)), math.sqrt(float(1 - alpha_squared)))


def _digest(kept: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=list).encode()).hexdigest()[:8]
