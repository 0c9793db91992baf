"""STUB, to be dropped at merge: what calibration found for a model."""

from collections.abc import Mapping

from policies.features.base import ChannelCorrection, RecipeError


class Uncalibrated(RecipeError):
    """There is no artefact for this model, solver and number of steps."""


class Calibrations:
    """What calibration found for one model, solver and N."""

    def teacache(self) -> tuple[float, ...]:
        """Return the polynomial's coefficients, highest power first."""
        raise Uncalibrated("teacache is not calibrated for this model")

    def magcache(self) -> tuple[float, ...]:
        """Return T magnitude ratios."""
        raise Uncalibrated("magcache is not calibrated for this model")

    def smoothcache(self, kind: str, alpha: float) -> tuple[bool, ...]:
        """Return the schedule of one kind of sub-layer."""
        raise Uncalibrated("smoothcache is not calibrated for this model")

    def cachequant(self, groups: int, first_step: int, max_group: int | None = None) -> tuple[bool, ...]:
        """Return the schedule of a job that enters at `first_step`."""
        raise Uncalibrated("cachequant is not calibrated for this model")

    def channel_corrections(self) -> Mapping[tuple[int, int], ChannelCorrection]:
        """Return corrections by (step computed at, step wanted)."""
        raise Uncalibrated("cachequant is not calibrated for this model")
