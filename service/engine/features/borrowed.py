"""One job's feature caching by another library: on a copy of the denoiser's modules that shares all its weights.

The served denoiser is never touched. What the library remembers lives and dies with the copy, one for each attempt of
a job: there is no state to mix up between jobs, and none is left behind by one that is aborted.
"""

import copy
import logging
import weakref
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.hooks.hooks import CacheContext, _set_cache_context
from torch import Tensor, nn

from policies.features.backends import BACKENDS, Backend
from policies.features.base import Decision, Output, Recipe, StepContext
from service.engine.features.backbone import Inputs
from service.engine.features.libraries import Clock, Settings, installed, put_on, refuses
from service.engine.features.meter import Costs, Meter, tensor_bytes
from service.engine.features.run import FeatureRun, Ledger
from service.logs import fields_of

logger = logging.getLogger(__name__)

# Less is rounding.
SAVED = 1e-3


def backends_of(denoiser: Any) -> tuple[str, ...]:
    """Return the names of the installed libraries' methods that a denoiser can run, as far as known."""
    architecture = "unet" if "UNet" in type(denoiser).__name__ else "transformer"
    return tuple(
        name
        for name, backend in BACKENDS.items()
        if architecture in backend.architectures and installed(backend.library) and not refuses(name, denoiser)
    )


@dataclass
class Workshop:
    """Makes copies of a denoiser, and keeps what their parts cost.

    Attributes:
        denoiser: the served one.
        costs: as measured, by size of the picture and names of the parts.
    """

    denoiser: Any
    costs: dict[Hashable, Costs] = field(default_factory=dict)

    def copy(self) -> Any:
        """Return the same modules once more, over the same parameters and buffers."""
        shared = [*self.denoiser.parameters(), *self.denoiser.buffers()]
        return copy.deepcopy(self.denoiser, {id(tensor): tensor for tensor in shared})


class BackendRun(FeatureRun):
    """Another library's feature caching of one attempt of a job.

    To the network it looks like a recipe without layers; `denoise` stands in for the denoiser.

    Args:
        backend: the method.
        strength: of the choice.
        workshop: makes the copy.
        ledger: of the job.
        paired: the job has an unconditional row.
        ratios: MagCache's, of all N steps.
        budget: most bytes to remember.
    """

    def __init__(
        self,
        backend: Backend,
        strength: float,
        workshop: Workshop,
        ledger: Ledger,
        *,
        paired: bool,
        ratios: tuple[float, ...] = (),
        budget: int,
    ) -> None:
        super().__init__(Recipe(), ledger)
        self._backend, self._values = backend, backend.values(strength)
        self._workshop, self._paired, self._ratios, self._budget = workshop, paired, ratios, budget
        self._copy: _Copy | None = None
        self._open = False

    def begin(self, context: StepContext, position: int) -> None:
        """Start an evaluation; after one that failed the copy may have gone on, and is made anew."""
        if self._open:
            self.reset()
        super().begin(context, position)
        self._open = True

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self._copy = None

    def commit(self) -> bool:
        """Take note of what was remembered; see `FeatureRun.commit`."""
        reused, self._open = super().commit(), False
        if self._copy is not None:
            self.nbytes = self._copy.nbytes
            self._ledger.peak_bytes = max(self._ledger.peak_bytes, self.nbytes)
            if self.nbytes > self._budget:
                self.give_up("too-large")
        return reused

    def give_up(self, reason: str) -> None:
        """Let go of the copy; the job is to go on without feature caching."""
        self.failed = reason
        self._copy, self.nbytes = None, 0

    def denoise(self, inputs: Inputs) -> Tensor | None:
        """Run the copy; None if it cannot: then the job gives it up.

        Args:
            inputs: of the denoiser, of the job's one row, or of its unconditional and its conditional one.
        """
        rows = 1 + self._paired
        try:
            if self._copy is None:
                self._copy = _Copy(self._backend, self._workshop.copy(), self._settings(self.context))
            output, costs, spent = self._copy.run(inputs, self.context, rows, self._workshop.costs)
        except torch.AcceleratorError:
            raise
        except Exception as error:
            logger.warning("%s does not run", self._backend.name, extra=fields_of(error))
            full = isinstance(error, torch.OutOfMemoryError | MemoryError)
            self.give_up("too-large" if full else "unsupported")
            return None
        self.spend(spent, rows * costs.whole)
        if spent < (1 - SAVED) * rows * costs.whole:
            self.note(Output(), Decision.REUSE)
        return output

    def _settings(self, context: StepContext) -> Settings:
        left = context.steps - context.step
        return Settings(self._values, Clock(), self._paired, left, self._ratios[context.step :])


class _Copy:
    """A copy of the denoiser with a method on it."""

    def __init__(self, backend: Backend, denoiser: Any, settings: Settings) -> None:
        self.clock = settings.clock
        self._denoiser = denoiser
        self._per_step = backend.per_step
        # The hooks make circles of references, and without this a job's memory would stay until they are searched.
        weakref.finalize(self, _untie, denoiser)
        self._meter = Meter(denoiser)
        put_on(backend.name, denoiser, settings)

    @property
    def nbytes(self) -> int:
        """Bytes remembered between evaluations."""
        return tensor_bytes([_memory(module) for module in self._denoiser.modules()])

    def run(
        self, inputs: Inputs, context: StepContext, rows: int, known: dict[Hashable, Costs]
    ) -> tuple[Tensor, Costs, float]:
        """Run the denoiser; see `Meter.run`.

        Args:
            inputs: of the denoiser.
            context: of the evaluation.
            rows: of the batch.
            known: costs; those of a first evaluation of its kind, in which all is computed, are added.
        """
        if self._per_step and context.stage > 0:
            raise ValueError("it takes every evaluation for a step")
        self.clock.timestep = context.timestep
        _set_cache_context(self._denoiser, CacheContext("job", context.step, context.steps, context.timestep))
        sizes = tuple(value.shape[1:] for value in inputs.values() if isinstance(value, Tensor))
        key = (sizes, tuple(self._meter.units))
        made = self._meter.run(lambda: self._denoiser(**inputs, return_dict=False)[0], rows, known.get(key))
        known[key] = made[1]
        self.clock.fresh = False
        return made


def _memory(module: nn.Module) -> list[object]:
    """Return where the libraries keep what they remember."""
    own = vars(module)
    hooks = own.get("_diffusers_hook")
    return [list(hooks.hooks.values()) if hooks is not None else [], own.get("_context_manager")]


def _untie(denoiser: nn.Module) -> None:
    for module in list(denoiser.modules()):
        for name in ("forward", "_diffusers_hook", "_context_manager", "_original_forward"):
            vars(module).pop(name, None)
