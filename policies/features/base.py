"""The contracts of feature caching: what is cached (site), when (policy), how a missing tensor is formed (predictor).

Every published method is a choice on these axes. A `CachePolicy` sees one job at one evaluation and answers COMPUTE,
REUSE or PROBE; it never sees another job's data, so a job decides in a mixed batch as it would alone. What no policy
may get wrong is enforced by the engine, not here: nothing is reused at a job's first evaluation, without enough
history, after a gap, or on a distance that is not finite. What is remembered lives and dies with one attempt of one
job, in which picture size, LoRA set and number type cannot change.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import ClassVar, Literal


class Decision(Enum):
    """What to do with a site at one evaluation."""

    COMPUTE = "compute"
    REUSE = "reuse"
    """Let the predictor form the tensor from the history, be it by copying or by extrapolating."""
    PROBE = "probe"
    """Run the cheap part first and ask `CachePolicy.decide` with what it shows."""


@dataclass(frozen=True, slots=True)
class StepContext:
    """What a policy may see of one job at one network evaluation.

    Attributes:
        step: index i of the step in the full N-step schedule, K to N - 1.
        stage: which evaluation of the step, 0 for the first; solvers of second order have a second.
        steps: N.
        first_step: K, the step the job entered at.
        executed: steps of this job done since K.
        timestep: the model's time value.
        log_snr: ln(alpha^2 / sigma^2) of the latent.
    """

    step: int
    stage: int
    steps: int
    first_step: int
    executed: int
    timestep: float
    log_snr: float

    @property
    def last(self) -> bool:
        """Whether it is the last step."""
        return self.step == self.steps - 1


Coordinate = Literal["step", "log_snr"]


@dataclass(frozen=True, slots=True)
class Moment:
    """Where on the schedule a tensor was computed."""

    step: int
    log_snr: float

    def at(self, coordinate: Coordinate) -> float:
        """Return the place on an axis predictors extrapolate along."""
        return float(self.step) if coordinate == "step" else self.log_snr


@dataclass(frozen=True, slots=True)
class Probe:
    """What the cheap part of an evaluation shows.

    Attributes:
        distance: mean |a - b| / mean |b| of the indicator now (a) and its reference (b).
        motion: of the content, where it has a frame axis (`dynamic.motion_score`); None for pictures.
    """

    distance: float
    motion: float | None = None


@dataclass
class PolicyState:
    """What a policy remembers of one site of one job between evaluations; any policy may use any field.

    Attributes:
        accumulated: running sum of a distance.
        reused: reuses in a row since the last compute.
        computed_at: step of the last compute; None before the first.
        next_compute: step of the next compute, where that is known ahead.
        motion: of the content at the compute that is about to be observed, set by whoever measures it before it calls
            `observe`; None where nothing was measured.
        motion_before: of the compute before.
    """

    accumulated: float = 0.0
    reused: int = 0
    computed_at: int | None = None
    next_compute: int | None = None
    motion: float | None = None
    motion_before: float | None = None


Indicator = Literal["modulated-input", "timestep", "entry", "increment", "filtered"]
"""What a probing policy looks at.

"modulated-input": the input of the first block after normalisation and modulation by the timestep (TeaCache);
"timestep": the timestep embedding alone (TeaCache on models such as Wan); "entry": what flows into the cached part,
which in a UNet is the last skip connection above the cut; "increment": what the blocks before the cached part have
added (First Block Cache, DBCache); "filtered": the input of the first block behind a Wiener filter of the noise level
(SeaCache).
"""
Reference = Literal["previous", "computed"]
"""What an indicator is compared with: the evaluation before, or the last one computed."""


class CachePolicy(ABC):
    """When a site is computed. Immutable; everything that changes lies in the `PolicyState` handed in.

    Attributes:
        reference: what the indicator is compared with.
        measures_change: `observe` wants the relative change of the computed tensor since the one computed before.
    """

    reference: ClassVar[Reference] = "computed"
    measures_change: ClassVar[bool] = False

    @property
    def indicator(self) -> Indicator | None:
        """What `decide` wants measured; None for policies that never answer PROBE."""
        return None

    @abstractmethod
    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Decide before the evaluation, or answer PROBE. Changes nothing."""

    def decide(self, context: StepContext, state: PolicyState, probe: Probe) -> Decision:
        """Decide on a probe, COMPUTE or REUSE; called only after PROBE, and once. May change `state`."""
        return Decision.COMPUTE

    def observe(self, context: StepContext, state: PolicyState, *, computed: bool, change: float | None) -> None:
        """Take note of what was done, whoever decided it; `state.reused` and `computed_at` are kept by this method.

        Args:
            context: the evaluation.
            state: of the site.
            computed: whether the site was computed.
            change: mean |new - old| / mean |old| of the tensor computed now and the one computed before; None where
                there was none, nothing was computed, or `measures_change` is off.
        """
        if computed:
            state.reused, state.computed_at = 0, context.step
        else:
            state.reused += 1


class StaticPolicy(CachePolicy):
    """A policy whose decisions are known before the job starts: no request's data plays a part."""

    @abstractmethod
    def mask(self, steps: int, first_step: int) -> tuple[bool, ...]:
        """Return, for every step of the full schedule, whether it is computed.

        Args:
            steps: N.
            first_step: K; entries before it count for nothing, the entry at it is always taken as True.

        Returns:
            N flags.
        """

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Look the step up."""
        flags = _mask_of(self, context.steps, context.first_step)
        return Decision.COMPUTE if flags[context.step] else Decision.REUSE


@lru_cache(maxsize=4096)
def _mask_of(policy: StaticPolicy, steps: int, first_step: int) -> tuple[bool, ...]:
    flags = policy.mask(steps, first_step)
    return tuple(flag or step == first_step for step, flag in enumerate(flags))


class Predictor(ABC):
    """How a tensor that is not computed is formed: a weighted sum of the last computed ones. Immutable.

    Attributes:
        depth: computed tensors it needs, and that are kept; with fewer the site is computed.
    """

    @property
    @abstractmethod
    def depth(self) -> int:
        """Computed tensors it needs."""

    @abstractmethod
    def weights(self, now: Moment, history: Sequence[Moment], steps: int) -> tuple[float, ...]:
        """Return the weight of each remembered tensor.

        Args:
            now: where the tensor is wanted.
            history: where the last `depth` tensors were computed, newest first.
            steps: N.
        """

    def channels(self, now: Moment, anchor: Moment, steps: int) -> "ChannelCorrection | None":
        """Return a scale and an offset per channel to apply to the weighted sum; None = leave it.

        Args:
            now: where the tensor is wanted.
            anchor: where the newest remembered tensor was computed.
            steps: N.
        """
        return None


@dataclass(frozen=True, slots=True)
class ChannelCorrection:
    """x -> scale * x + offset, one pair of numbers per channel."""

    scale: tuple[float, ...]
    offset: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class UNetSkip:
    """The hidden state that enters the up layer which consumes skip connection number `branch` (0 = shallowest).

    Attributes:
        branch: which skip connection is the deepest that is still computed afresh.
    """

    branch: int


@dataclass(frozen=True, slots=True)
class BlockStack:
    """What all blocks but the first `first` and the last `last` add to the hidden states."""

    first: int = 0
    last: int = 0


@dataclass(frozen=True, slots=True)
class SubLayer:
    """The outputs of one kind of sub-layer in every block: "attention", "cross-attention" or "feed-forward"."""

    kind: str


@dataclass(frozen=True, slots=True)
class Guidance:
    """The unconditional output, given the conditional one: its row is not run at all."""


@dataclass(frozen=True, slots=True)
class Output:
    """The whole denoiser's guided output: the job takes part in no forward at all."""


Site = Output | Guidance | UNetSkip | BlockStack | SubLayer
ORDER: tuple[type, ...] = (Output, Guidance, UNetSkip, BlockStack, SubLayer)
"""From the outside in: what a site further out reuses, those further in are not asked about."""


@dataclass(frozen=True, slots=True)
class CacheLayer:
    """One site, when it is computed, and how it is formed when it is not.

    Attributes:
        site: what is cached.
        policy: when it is computed.
        predictor: how it is formed otherwise.
        resume_warmup: evaluations computed after the entry of a resumed job, beyond the first.
        force_last: compute the last step.
        max_reused: most reuses in a row; 0 = no bound.
    """

    site: Site
    policy: CachePolicy
    predictor: Predictor
    resume_warmup: int = 0
    force_last: bool = False
    max_reused: int = 0


class RecipeError(ValueError):
    """A combination of layers that cannot be run; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """All layers of one job, from the outside in; no two on one site.

    Raises:
        RecipeError: two layers share a site.
    """

    layers: tuple[CacheLayer, ...] = field(default=())

    def __post_init__(self) -> None:
        inner = [layer for layer in self.layers if isinstance(layer.site, UNetSkip | BlockStack)]
        sites = [layer.site for layer in self.layers]
        if len(set(sites)) < len(sites) or len(inner) > 1:
            raise RecipeError("two feature cache policies cannot share one site")
        ordered = sorted(self.layers, key=lambda layer: ORDER.index(type(layer.site)))
        object.__setattr__(self, "layers", tuple(ordered))

    def at(self, kind: type) -> CacheLayer | None:
        """Return the layer on a kind of site that occurs once."""
        return next((layer for layer in self.layers if isinstance(layer.site, kind)), None)
