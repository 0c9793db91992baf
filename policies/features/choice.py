"""What a request asks of feature caching, what a model offers, and what came of it."""

from dataclasses import dataclass
from typing import Literal

Architecture = Literal["unet", "transformer"]
"""Skip connections to cut at, or a stack of blocks."""


@dataclass(frozen=True, slots=True)
class FeatureChoice:
    """A named method at one strength.

    Attributes:
        policy: a name of `methods.METHODS`, or several joined by "+" in any order: they stack. Or one of
            `backends.BACKENDS`.
        strength: in (0, 1]: from conservative to fast, mapped to each method's own parameters.
        resume_warmup: steps computed after the entry of a resumed run, beyond the first: there a trajectory moves
            more than any calibration has seen.
    """

    policy: str
    strength: float
    resume_warmup: int = 0

    @property
    def alone(self) -> bool:
        """Whether another library does it: then the job shares no forward with others."""
        return ":" in self.policy


@dataclass(frozen=True, slots=True)
class Traits:
    """What of a denoiser decides which methods it can run.

    Attributes:
        architecture: "unet" (skip connections to cut at) or "transformer" (a stack of blocks).
        depth: branches of a UNet, blocks of a transformer.
        kinds: kinds of sub-layers that can be cached, () if none.
        guided: the run has an unconditional row (classifier-free guidance with a scale above 1).
    """

    architecture: Architecture
    depth: int
    kinds: tuple[str, ...]
    guided: bool


@dataclass(frozen=True, slots=True)
class FeatureReport:
    """What feature caching did for one job.

    Attributes:
        policy: as asked for.
        strength: as asked for.
        reason: why nothing was cached, in a word or two ("uncalibrated", "unsupported", "too-large",
            "not-installed", "not-finite", "error"); None = it ran.
        computed: network evaluations in which everything was computed.
        reused: network evaluations in which something was reused.
        compute_share: multiplications executed, of those the same evaluations take without feature caching.
        state_bytes: most bytes remembered at one time.
    """

    policy: str
    strength: float
    reason: str | None
    computed: int
    reused: int
    compute_share: float
    state_bytes: int
