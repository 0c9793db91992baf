"""Drives full runs of a model and makes artefacts of what they show."""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from policies.features.artefact_file import CALIBRATOR, METHODS, Artefact, ArtefactError, ArtefactKey
from policies.features.base import BlockStack, Recipe, RecipeError, UNetSkip
from policies.features.choice import FeatureChoice
from policies.features.methods import check_choice
from service.calibrate.recorders import (
    SMOOTH_LAGS,
    CacheQuantRecorder,
    MagCacheRecorder,
    Recorder,
    SmoothCacheRecorder,
    TeaCacheRecorder,
)
from service.engine.base import JobFailed, JobResult, JobSpec, Pipeline, Progress
from service.engine.config import FEATURE_BYTES
from service.engine.features.backbone import Backbone, UnsupportedSite
from service.engine.features.backbones import traits_of
from service.engine.features.recording import Evaluation, RecordingCaches, full_recipe
from service.engine.job import plan_route
from service.engine.loop import StepLoop

MOST_JOBS = 8
MOST_STEPS = 1000
ALL = "all"
ASKS = FeatureChoice("interval", 1.0)
"""Any choice will do: it only makes the loop open what records."""


class CalibrationError(Exception):
    """Calibration cannot be done; the message is one clear line."""


class RunFailed(CalibrationError):
    """Nothing was wrong with what was asked for, but a run did not get to its end."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be calibrated, and on what.

    Attributes:
        prompts: at least one; the samples go through them in turn.
        solver: name.
        steps: N.
        guidance: scale.
        width: pixels.
        height: pixels.
        policies: names, or "all".
        samples: runs.
        seed: of the first run; the next ones follow.
        branch: of a UNet, where its features are cut; 0 saves most.
    """

    prompts: tuple[str, ...]
    solver: str
    steps: int
    guidance: float
    width: int
    height: int
    policies: tuple[str, ...] = (ALL,)
    samples: int = 8
    seed: int = 900_001
    branch: int = 0

    @property
    def used(self) -> tuple[str, ...]:
        """The prompts that are drawn, in order."""
        return tuple(self.prompts[number % len(self.prompts)] for number in range(self.samples))

    @property
    def digest(self) -> str:
        """Of the prompts that are drawn: SHA-256, 64 hex digits."""
        return hashlib.sha256("\n".join(self.used).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Fitted:
    """What was calibrated, and in how many seconds of runs."""

    artefacts: tuple[Artefact, ...]
    seconds: float


class Calibration:
    """Runs a model in full, and fits methods to what its runs show.

    Args:
        pipeline: the loaded model.
        wish: what to do.

    Attributes:
        methods: names of what will be calibrated.

    Raises:
        CalibrationError: it cannot be done.
    """

    def __init__(self, pipeline: Pipeline, wish: Wish) -> None:
        backbone = pipeline.network.backbone
        if backbone is None:
            raise CalibrationError("feature caching does not know this model's denoiser")
        _check(pipeline, wish)
        self.methods = wanted_methods(wish.policies, pipeline, backbone)
        self._pipeline, self._wish, self._backbone = pipeline, wish, backbone
        self._site = _site(backbone, wish.branch)

    def run(self, advanced: Callable[[int], None] = lambda _: None) -> Fitted:
        """Do it.

        Args:
            advanced: told of steps that are done, `samples` * `steps` in all.

        Raises:
            CalibrationError: what the runs showed cannot be fitted; `RunFailed` where one of them failed.
        """
        wish, backbone, site, started = self._wish, self._backbone, self._site, time.perf_counter()
        kinds = backbone.kinds if "smoothcache" in self.methods else ()
        recipe = full_recipe(site, kinds, indicator="teacache" in self.methods)
        recorders = {method: _recorder(method, wish.steps, backbone) for method in self.methods}
        _run(self._pipeline, backbone, wish, recipe, _All(recorders), advanced)
        seconds = time.perf_counter() - started
        notes = {"samples": float(wish.samples)}
        if isinstance(site, UNetSkip):
            notes["branch"] = float(site.branch)
        made = [_artefact(self._pipeline, wish, method, recorder, notes) for method, recorder in recorders.items()]
        return Fitted(tuple(made), seconds)


def wanted_methods(policies: Sequence[str], pipeline: Pipeline, backbone: Backbone) -> tuple[str, ...]:
    """Return the names of methods to calibrate, those of "all" being what the model can run.

    Raises:
        CalibrationError: an unknown name, one that needs no calibration, or one this model cannot run.
    """
    runnable = [name for name in METHODS if name in pipeline.info.feature_policies]
    if not backbone.kinds:
        runnable = [name for name in runnable if name != "smoothcache"]
    found: list[str] = []
    for name in policies:
        if name == ALL:
            found += runnable
            continue
        try:
            check_choice(name, traits_of(backbone, guided=False).architecture)
        except RecipeError as error:
            raise CalibrationError(str(error)) from error
        if name not in METHODS:
            raise CalibrationError(f"{name!r} needs no calibration; what does: {', '.join(METHODS)}")
        if name not in runnable:
            raise CalibrationError(f"this model has no sub-layers for {name!r}")
        found.append(name)
    return tuple(dict.fromkeys(found))


def _check(pipeline: Pipeline, wish: Wish) -> None:
    info = pipeline.info
    if wish.solver not in info.solvers:
        raise CalibrationError(f"unknown solver {wish.solver!r}; this model has {', '.join(info.solvers)}")
    if not 2 <= wish.steps <= MOST_STEPS:
        raise CalibrationError(f"steps must be 2 to {MOST_STEPS}, got {wish.steps}")
    if not (math.isfinite(wish.guidance) and wish.guidance >= 0.0):
        raise CalibrationError(f"guidance must be a number of at least 0, got {wish.guidance}")
    if wish.samples < 1:
        raise CalibrationError(f"samples must be at least 1, got {wish.samples}")
    if wish.seed < 0 or wish.seed + wish.samples > 2**63:
        raise CalibrationError(f"seed must be 0 or more and fit 63 bits, got {wish.seed}")
    for name, side in (("width", wish.width), ("height", wish.height)):
        if side % info.size_multiple or not info.size_multiple <= side <= info.max_size:
            raise CalibrationError(
                f"{name} must be a multiple of {info.size_multiple} up to {info.max_size}, got {side}"
            )
    try:
        route = plan_route(pipeline, _spec(wish, 0))
    except ValueError as error:
        raise CalibrationError(f"solver {wish.solver!r} cannot do {wish.steps} steps: {error}") from error
    if len(route.times) != wish.steps or len(route.starts) != wish.steps:
        raise CalibrationError(
            f"solver {wish.solver!r} takes {len(route.times)} network evaluations for {wish.steps} steps; "
            "only solvers that take one a step can be calibrated"
        )


def _site(backbone: Backbone, branch: int) -> UNetSkip | BlockStack:
    if traits_of(backbone, guided=False).architecture == "transformer":
        if branch:
            raise CalibrationError("a transformer has no branches to choose from")
        return BlockStack()
    try:
        backbone.span(UNetSkip(branch))
    except UnsupportedSite as error:
        raise CalibrationError(str(error)) from error
    return UNetSkip(branch)


def _recorder(method: str, steps: int, backbone: Backbone) -> Recorder:
    if method == "teacache":
        return TeaCacheRecorder()
    if method == "magcache":
        return MagCacheRecorder()
    if method == "smoothcache":
        return SmoothCacheRecorder(steps)
    # A feature has lost the batch's axis.
    axis = backbone.channel_axis
    return CacheQuantRecorder(steps, axis - 1 if axis > 0 else axis)


@dataclass(frozen=True)
class _All:
    """Shows every evaluation to all recorders."""

    recorders: Mapping[str, Recorder]

    def see(self, job: str, evaluation: Evaluation) -> None:
        for recorder in self.recorders.values():
            recorder.see(job, evaluation)


def _spec(wish: Wish, number: int) -> JobSpec:
    return JobSpec(
        job_id=f"calibration-{number}",
        prompt=wish.used[number],
        negative_prompt="",
        seed=wish.seed + number,
        steps=wish.steps,
        guidance_scale=wish.guidance,
        solver=wish.solver,
        width=wish.width,
        height=wish.height,
        features=ASKS,
    )


def _run(
    pipeline: Pipeline,
    backbone: Backbone,
    wish: Wish,
    recipe: Recipe,
    watcher: _All,
    advanced: Callable[[int], None],
) -> None:
    caches = RecordingCaches(pipeline, recipe, watcher)
    jobs = _together(caches, backbone, wish, recipe)
    loop = StepLoop(pipeline, max_batch=jobs, caches=caches)
    for number in range(wish.samples):
        loop.submit(_spec(wish, number), time.monotonic())
    while not loop.idle:
        for event in loop.tick():
            if isinstance(event, JobFailed):
                raise RunFailed(f"a run failed ({event.code}): {event.message}")
            if isinstance(event, JobResult) and event.features is not None and event.features.reason:
                raise RunFailed(f"a run could not be recorded to its end ({event.features.reason})")
            if isinstance(event, Progress) and event.step > event.first_step:
                advanced(1)


def _together(caches: RecordingCaches, backbone: Backbone, wish: Wish, recipe: Recipe) -> int:
    """Return how many runs go side by side: what the recorders keep of them has to fit."""
    profile = caches.profile(wish.width, wish.height)
    if profile is None:
        return 1
    guided = caches.pipeline.info.guided(wish.guidance)
    cut, *parts = (profile.state_bytes(Recipe((layer,)), backbone, guided=guided) for layer in recipe.layers)
    return int(
        max(1, min(MOST_JOBS, wish.samples, FEATURE_BYTES // max(1, wish.steps * cut + SMOOTH_LAGS * sum(parts))))
    )


def _artefact(
    pipeline: Pipeline, wish: Wish, method: str, recorder: Recorder, notes: Mapping[str, float]
) -> Artefact:
    info = pipeline.info
    key = ArtefactKey(
        method=method,
        weights_digest=info.weights_digest,
        schedule=info.schedule,
        solver=wish.solver,
        steps=wish.steps,
        width=wish.width,
        height=wish.height,
        guidance=wish.guidance,
        dtype=info.dtype,
        calibrator=CALIBRATOR,
        prompts=wish.digest,
    )
    try:
        arrays, found = recorder.fitted()
        return Artefact(key, arrays, {**notes, **found})
    except (ValueError, ArtefactError) as error:
        raise CalibrationError(f"{method} cannot be fitted: {error}") from error
