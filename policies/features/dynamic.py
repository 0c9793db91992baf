"""STUB, to be dropped at merge: policies that look at a request's own data."""

from dataclasses import dataclass

from policies.features.base import CachePolicy, Decision, Indicator, PolicyState, StepContext


@dataclass(frozen=True)
class AccumulatedDistance(CachePolicy):
    """Stub."""

    threshold: float
    coefficients: tuple[float, ...] = (1.0, 0.0)
    indicator: Indicator = "modulated-input"  # type: ignore[misc]

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Probe."""
        return Decision.PROBE


@dataclass(frozen=True)
class ProbeDistance(CachePolicy):
    """Stub."""

    threshold: float
    indicator: Indicator = "increment"  # type: ignore[misc]
    warmup: int = 0

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Probe."""
        return Decision.PROBE


@dataclass(frozen=True)
class RateCodebook(CachePolicy):
    """Stub."""

    bounds: tuple[float, ...]
    rates: tuple[int, ...]

    def plan(self, context: StepContext, state: PolicyState) -> Decision:
        """Compute."""
        return Decision.COMPUTE
