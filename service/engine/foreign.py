"""Schedulers of diffusers that are not vectorised: one object per attempt of a job.

The network's forward stays joint; only the step of such a row is its scheduler's own. A scheduler is handed what it
would see in diffusers' pipeline: the sample in its own scaling, and the network's output made again from the
predicted clean latent. A resumed attempt has a fresh object, begun at the step whose noise level is the state's; the
level of that first node is replaced by the state's own.
"""

import copy
import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import numpy as np
import torch
from diffusers import (
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverSinglestepScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    LCMScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
)
from torch import Tensor

from service.engine.levels import SAME_TIME, Level
from service.engine.solvers import Moment, Solver, Update

# What diffusers' LCMScheduler takes its time values from: as many as it was distilled at, or N if that is more.
LCM_STEPS = 50


class Space(Enum):
    """How a scheduler scales its sample; latents of the engine are variance-preserving."""

    PRESERVING = "alpha x0 + sigma noise"
    EXPLODING = "x0 + (sigma / alpha) noise"
    FLOW = "(1 - s) x0 + s noise"

    def scale(self, level: Level) -> float:
        """What a variance-preserving latent at `level` is multiplied by to be the scheduler's sample."""
        if self is Space.EXPLODING:
            return 1 / level.alpha
        return 1 / (level.alpha + level.sigma) if self is Space.FLOW else 1.0


@dataclass(frozen=True, slots=True)
class Method:
    """How one of diffusers' schedulers is driven.

    Attributes:
        make: its class.
        space: of its sample.
        speaks: the prediction type it is set to; None = the model's own.
        pairs: a step takes two evaluations, but the last, which takes one.
        nodes: it steps between its `sigmas`; else between training times.
        cut: an entry forgets the steps before it; else it is counted from the start of the run.
        random: it draws noise.
        exact: it carries nothing from step to step, so that a resumed run is the uninterrupted one.
        settings: in place of its own defaults.
    """

    make: Any
    space: Space = Space.PRESERVING
    speaks: str | None = "sample"
    pairs: bool = False
    nodes: bool = False
    cut: bool = False
    random: bool = False
    exact: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "heun": Method(HeunDiscreteScheduler, Space.EXPLODING, pairs=True, nodes=True),
    "kdpm2": Method(KDPM2DiscreteScheduler, Space.EXPLODING, "epsilon", pairs=True, nodes=True),
    # Its order is the step it is at, so that only a run cut off there begins at first order.
    "lms": Method(LMSDiscreteScheduler, Space.EXPLODING, nodes=True, cut=True, exact=False),
    "deis": Method(DEISMultistepScheduler, nodes=True, exact=False),
    "dpm_singlestep": Method(DPMSolverSinglestepScheduler, nodes=True, settings={"lower_order_final": True}),
    # Without the Runge-Kutta start of the paper, as every Stable Diffusion ships it.
    "pndm": Method(PNDMScheduler, speaks=None, cut=True, exact=False, settings={"skip_prk_steps": True}),
    "ddpm": Method(DDPMScheduler, cut=True, random=True),
    "lcm": Method(LCMScheduler, random=True),
    "flow_match_heun": Method(FlowMatchHeunDiscreteScheduler, Space.FLOW, "flow", pairs=True, nodes=True),
}
FLOW_FOREIGN = ("flow_match_heun",)
DISCRETE_FOREIGN = tuple(name for name in METHODS if name not in FLOW_FOREIGN)


def stages_of(solver: str) -> int:
    """Return the most network evaluations a step of a solver takes, this module's or not."""
    method = METHODS.get(solver)
    return 2 if method is not None and (method.pairs or method.make is PNDMScheduler) else 1


class Foreign(Solver):
    """Leaves a row of the vectorised step as it is: the row's own scheduler steps it."""

    def update(self, at: Moment) -> Update:
        """Return weights that change nothing."""
        return Update(1.0, 0.0)


FOREIGN = Foreign()


class ForeignRun:
    """One attempt's scheduler, from where it enters to the end.

    Args:
        method: how it is driven.
        scheduler: its own, with its time steps set.
        first: position in the scheduler's `timesteps` of the first evaluation.
        level: noise level at a time value, of the model.

    Attributes:
        times: time value of each evaluation.
        levels: noise level at each of them and, last, the one the run ends at.
        starts: the evaluation each step begins with.
        start: what the initial unit noise is multiplied by.
    """

    def __init__(self, method: Method, scheduler: Any, first: int, level: Callable[[float], Level]) -> None:
        self._method, self._scheduler, self._first = method, scheduler, first
        self.times = tuple(float(time) for time in scheduler.timesteps[first:])
        self.starts = _starts(method, len(self.times))
        if method.nodes:
            self.levels = tuple(self._node(first + index) for index in range(len(self.times) + 1))
        else:
            self.levels = (*(level(time) for time in self.times), Level(1.0, 0.0))
        # The flow scheduler starts from unit noise, and has no name for it.
        unit = 1.0 if method.space is Space.FLOW else float(scheduler.init_noise_sigma)
        self.start = unit / method.space.scale(self.levels[0])

    @property
    def exact(self) -> bool:
        """Whether a run begun here goes on as an uninterrupted one would."""
        return self._method.exact and self.holds(0)

    def holds(self, step: int) -> bool:
        """Whether the latent before a step is all that the scheduler knows of the run so far, history apart."""
        if self._method.make is DPMSolverSinglestepScheduler:
            return bool(self._scheduler.order_list[self._first + step] == 1)
        return True

    def step(self, index: int, latent: Tensor, denoised: Tensor, generator: torch.Generator) -> Tensor:
        """Return the latent at the next level, float32 [C, h, w].

        Args:
            index: of the evaluation; they must come in order, each once.
            latent: variance-preserving, [C, h, w].
            denoised: predicted x0, [C, h, w].
            generator: of this step's noise.
        """
        now, after = self.levels[index : index + 2]
        space, scheduler = self._method.space, self._scheduler
        if not self._method.random:  # noise in double precision would be other noise
            # Sigmas of a cosine schedule reach 20,000, where single precision loses four digits.
            latent, denoised = latent.double(), denoised.double()
        stepped = scheduler.step(
            _output(scheduler.config.get("prediction_type", "flow"), latent, denoised, now)[None],
            scheduler.timesteps[self._first + index],
            (latent * space.scale(now))[None],
            return_dict=False,
            **({"generator": generator} if self._method.random else {}),
        )[0]
        result: Tensor = (stepped[0] / space.scale(after)).float()
        return result

    def _node(self, position: int) -> Level:
        scheduler = self._scheduler
        middle = self._method.make is KDPM2DiscreteScheduler and position % 2 and position < len(scheduler.timesteps)
        sigma = float((scheduler.sigmas_interpol if middle else scheduler.sigmas)[position])
        return Level.of_flow(sigma) if self._method.space is Space.FLOW else Level.of_ratio(sigma)


class ForeignSchedules:
    """Makes jobs their scheduler objects, from the configuration of a discrete variance-preserving model.

    Args:
        config: configuration of any of diffusers' schedulers for the model.
        prediction_type: of its network.
        level: noise level at a time value.

    Attributes:
        names: keys of METHODS that work with this configuration.
    """

    def __init__(self, config: Mapping[str, Any], prediction_type: str, level: Callable[[float], Level]) -> None:
        self._config, self._level = dict(config), level
        self._own = prediction_type if prediction_type == "v_prediction" else "epsilon"
        self._made: dict[tuple[str, int], Any] = {}
        self.names = tuple(name for name in DISCRETE_FOREIGN if self._works(name))

    def run(self, name: str, steps: int, entry: float | None = None) -> ForeignRun:
        """Return a fresh scheduler for N steps, begun at a time value.

        Args:
            name: one of `names`.
            steps: N.
            entry: time value of the state it enters at; None = from pure noise.

        Raises:
            ValueError: N is larger than the number of training steps.
        """
        method, scheduler = METHODS[name], self._scheduler(name, steps)
        first = 0
        if entry is not None:
            first = enter(method, scheduler, entry, self._level(entry).ratio)
        return ForeignRun(method, scheduler, first, self._level)

    def _scheduler(self, name: str, steps: int) -> Any:
        """A copy of its own: making one from nothing takes some of them tens of milliseconds."""
        if (name, steps) not in self._made:
            # At most one per scheduler and N, and N is bounded.
            self._made[name, steps] = self._make(name, steps)
        return copy.deepcopy(self._made[name, steps])

    def _make(self, name: str, steps: int) -> Any:
        method = METHODS[name]
        known = inspect.signature(method.make.__init__).parameters
        wanted = {**method.settings, "prediction_type": method.speaks or self._own, "clip_sample": False}
        scheduler = method.make.from_config(self._config, **{key: wanted[key] for key in wanted if key in known})
        more = {"original_inference_steps": max(steps, LCM_STEPS)} if method.make is LCMScheduler else {}
        scheduler.set_timesteps(steps, **more)
        scheduler.is_scale_input_called = True  # ours are
        return scheduler

    def _works(self, name: str) -> bool:
        known = inspect.signature(METHODS[name].make.__init__).parameters
        if self._config.get("rescale_betas_zero_snr") and "rescale_betas_zero_snr" not in known:
            return False
        try:
            self._make(name, 2)
        except (NotImplementedError, ValueError, ImportError):
            return False
        return True


def enter(method: Method, scheduler: Any, entry: float, ratio: float) -> int:
    """Begin a scheduler at a state: at the last of its steps that is not below it, moved to the state's own level.

    Args:
        method: how it is driven.
        scheduler: whose time steps are set.
        entry: time value of the state.
        ratio: the scheduler's own sigma there.

    Returns:
        The position in `timesteps` of its first evaluation.
    """
    starts = _starts(method, len(scheduler.timesteps))
    step_times = [float(scheduler.timesteps[position]) for position in starts]
    below = sum(time < entry - SAME_TIME for time in step_times)
    step = max(len(starts) - 1 - below, 0)
    moved = step_times[step] != entry
    if method.make is PNDMScheduler:
        return _enter_pndm(scheduler, step_times[step:], entry if moved else None)
    position = starts[step]
    if method.cut:
        scheduler.timesteps = scheduler.timesteps[position:]
        if method.nodes:
            scheduler.sigmas = scheduler.sigmas[position:]
        position = 0
    if moved:
        _move(method, scheduler, position, entry, ratio)
    if method.make is not DDPMScheduler:  # it goes by time values alone
        scheduler.set_begin_index(position)
    return position


def _move(method: Method, scheduler: Any, position: int, entry: float, ratio: float) -> None:
    times = scheduler.timesteps
    times[position] = entry if times.is_floating_point() else round(entry)
    if not method.nodes:
        return
    scheduler.sigmas[position] = ratio
    after = float(scheduler.sigmas[position + 1])
    if method.make is KDPM2DiscreteScheduler and after > 0:
        middle = math.sqrt(ratio * after)
        scheduler.sigmas_interpol[position + 1] = middle
        known = scheduler.log_sigmas.numpy()
        times[position + 1] = float(np.interp(math.log(middle), known, np.arange(len(known))))


def _enter_pndm(scheduler: Any, times: list[float], entry: float | None) -> int:
    """Lay out the rest of a run, the second time value twice; from between its times it keeps its stride."""
    if entry is not None:
        stride = int(scheduler.config.num_train_timesteps) // int(scheduler.num_inference_steps)
        times = [float(time) for time in range(round(entry), -1, -stride)]
    scheduler.timesteps = torch.tensor([*times[:2], *times[1:]]).long()
    return 0


def _starts(method: Method, evaluations: int) -> tuple[int, ...]:
    """The evaluation each step begins with."""
    if method.pairs:
        return tuple(range(0, evaluations, 2))
    if method.make is PNDMScheduler and evaluations > 1:
        return (0, *range(2, evaluations))
    return tuple(range(evaluations))


def _output(kind: str, latent: Tensor, denoised: Tensor, level: Level) -> Tensor:
    """The network's output again, from the clean latent it predicts at a variance-preserving latent."""
    if kind == "epsilon":
        return (latent - level.alpha * denoised) / level.sigma
    if kind == "v_prediction":
        return (level.alpha * latent - denoised) / level.sigma
    if kind == "flow":
        # noise - x0 = (x - x0) / s, with x = latent / (alpha + sigma) and s = sigma / (alpha + sigma).
        return (latent - (level.alpha + level.sigma) * denoised) / level.sigma
    return denoised
