"""From what is asked of feature caching to what a run will do: "off", "auto", or a policy the model can run."""

import logging
from pathlib import Path

from policies.features.backends import BACKENDS
from policies.features.base import RecipeError
from policies.features.choice import FeatureChoice
from policies.features.front import FILE_NAME, Front, FrontError, FrontKey
from policies.features.methods import METHODS, check_choice
from service.engine.base import ModelInfo
from service.types import FeaturePlan, GenerationRequest

OFF = "off"
AUTO = "auto"

log = logging.getLogger(__name__)


class FeatureCaching:
    """Resolves wishes against the served model and its calibrated front.

    Args:
        info: the served model.
        front: what `auto` chooses on; None = the model was not calibrated.
        calibration: digest of what the methods were calibrated to; with another one the pictures are others.
    """

    def __init__(self, info: ModelInfo, front: Front | None = None, calibration: str = "") -> None:
        self._info = info
        self._front = front
        self.calibration = calibration

    def resolve(self, request: GenerationRequest, skip: float = 0.0) -> FeaturePlan:
        """Return what the run will do; a wish that cannot be met ends in no feature caching, with the reason.

        Args:
            request: what is asked for.
            skip: share of the steps it will skip, as far as foreseen: `auto` takes what was measured on such runs.
        """
        wish = request.features
        if wish.policy == OFF:
            return FeaturePlan()
        if wish.policy == AUTO:
            return self._auto(request, skip)
        if complaint(wish.policy, self._info) is not None:
            return FeaturePlan(wish.policy, reason="unsupported")
        return FeaturePlan(wish.policy, FeatureChoice(canonical(wish.policy), wish.strength))

    def _auto(self, request: GenerationRequest, skip: float) -> FeaturePlan:
        if not self._info.feature_policies:
            return FeaturePlan(AUTO, reason="unsupported")
        front = self._front
        # With LoRAs it is another network than the one measured.
        if front is None or request.loras or front.key.refusals(self._key(request)):
            return FeaturePlan(AUTO, reason="uncalibrated")
        chosen = front.choose(request.scheduler, request.steps, request.features.min_quality, skip)
        if chosen is None or complaint(chosen.policy, self._info) is not None:
            return FeaturePlan(AUTO, reason="no-safe-policy")
        return FeaturePlan(AUTO, FeatureChoice(canonical(chosen.policy), chosen.strength))

    def _key(self, request: GenerationRequest) -> FrontKey:
        info = self._info
        size = (request.width, request.height)
        return FrontKey(info.weights_digest, info.schedule, *size, request.guidance_scale, info.dtype)


def canonical(policy: str) -> str:
    """Return a policy with its names in ascending order: the order plays no part."""
    return "+".join(sorted(policy.split("+")))


def complaint(policy: str, info: ModelInfo) -> str | None:
    """Return why a model cannot run a policy and what it can, or None; a name that is not ours is not repeated."""
    if policy in (OFF, AUTO):
        return None
    if not info.feature_policies:
        return f"this model runs no feature cache policy: must be {OFF} or {AUTO}"
    allowed = f'must be {OFF}, {AUTO}, or one or several, joined by "+", of {", ".join(info.feature_policies)}'
    if not set(policy.split("+")) <= METHODS.keys() | BACKENDS.keys():
        return allowed
    try:
        check_choice(policy, info.architecture)
    except RecipeError as error:
        return f"{error}: {allowed}"
    return None if set(policy.split("+")) <= set(info.feature_policies) else allowed


def metric_label(wish: str) -> str:
    """Return the metrics label of a policy: its name, or "stack" for several."""
    return "stack" if "+" in wish else wish


def load_front(folder: Path | None, info: ModelInfo) -> Front | None:
    """Return the front in a calibration folder; one of another model is refused, not used.

    Raises:
        FrontError: there is a file, and it cannot be read.
    """
    path = None if folder is None else folder / FILE_NAME
    if path is None or not path.is_file():
        return None
    try:
        front = Front.load(path)
    except OSError as error:
        raise FrontError(f"{path.name} cannot be read: {error.strerror}") from None
    key = front.key
    if (key.weights_digest, key.schedule, key.dtype) != (info.weights_digest, info.schedule, info.dtype):
        log.warning("the feature cache front was measured on another model or number type: auto caches no features")
        return None
    return front
