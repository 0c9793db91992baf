"""From what a job asks of feature caching to the run that does it, or the reason why nothing is cached."""

import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from policies.features.artefact import Calibrations, CalibrationShelf, Conditions, Uncalibrated
from policies.features.backends import Backend, find_backend
from policies.features.base import Recipe, RecipeError
from policies.features.choice import FeatureChoice
from policies.features.methods import make_recipe
from service.engine.base import JobSpec, Pipeline, Rows
from service.engine.config import FEATURE_BYTES
from service.engine.features.backbones import traits_of
from service.engine.features.borrowed import BackendRun, Workshop
from service.engine.features.libraries import installed
from service.engine.features.profile import Profile, unfit
from service.engine.features.run import FeatureRun, Ledger
from service.engine.foreign import stages_of
from service.logs import fields_of

logger = logging.getLogger(__name__)

# Kinds of jobs whose memory is kept in mind.
KNOWN = 1024
# Remembered outputs of a row, complex numbers in two bands among them.
OUTPUTS = 8
NOWHERE = Path("/nonexistent")


class NothingCached(Exception):
    """Feature caching does not run for a job; `reason` is one of `FeatureReport.reason`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass
class FeatureCaches:
    """Opens feature caching for jobs.

    Attributes:
        pipeline: the loaded model.
        shelf: what is calibrated.
        budget: most bytes to remember, for one job as for all of them.
    """

    pipeline: Pipeline
    shelf: CalibrationShelf = field(default_factory=lambda: CalibrationShelf(NOWHERE))
    budget: int = FEATURE_BYTES
    _known: dict[Hashable, int] = field(default_factory=dict)
    _workshop: Workshop | None = None

    def open(self, spec: JobSpec, choice: FeatureChoice, first_step: int, ledger: Ledger) -> FeatureRun:
        """Return the feature caching of one attempt of a job.

        Args:
            spec: the job.
            choice: what it asks for.
            first_step: K.
            ledger: of the job.

        Raises:
            NothingCached: it cannot be done, or would take more memory than there is.
        """
        try:
            if choice.alone:
                return self._borrowed(spec, choice, ledger)
            recipe = self.recipe(spec, choice, first_step)
            if self._bytes(recipe, spec) > self.budget:
                raise NothingCached("too-large")
        except NothingCached:
            raise
        except Uncalibrated as error:
            logger.warning("job %s runs without feature caching: %s", spec.job_id, error)
            raise NothingCached("uncalibrated") from error
        except RecipeError as error:
            logger.warning("job %s runs without feature caching: %s", spec.job_id, error)
            raise NothingCached("unsupported") from error
        except torch.AcceleratorError:
            raise
        except Exception as error:
            logger.error("job %s runs without feature caching", spec.job_id, extra=fields_of(error))
            raise NothingCached("error") from error
        return FeatureRun(recipe, ledger)

    def _borrowed(self, spec: JobSpec, choice: FeatureChoice, ledger: Ledger) -> BackendRun:
        backend = find_backend(choice.policy)
        if not installed(backend.library):
            raise NothingCached("not-installed")
        if spec.loras or stages_of(spec.solver) > 1:
            raise RecipeError(f"{backend.name} goes neither with LoRAs nor with solvers of two evaluations a step")
        if self._workshop is None:
            self._workshop = Workshop(self.pipeline.network.denoiser)
        ratios = self._calibrations(spec).magcache() if backend.calibrated else ()
        paired = self.pipeline.info.guided(spec.guidance_scale)
        if self._bytes_borrowed(backend, spec) > self.budget:
            raise NothingCached("too-large")
        return BackendRun(
            backend, choice.strength, self._workshop, ledger, paired=paired, ratios=ratios, budget=self.budget
        )

    def bytes_of(self, spec: JobSpec) -> int:
        """Return the bytes a job will remember, reckoned from above; 0 if it will not cache anything."""
        if spec.features is None:
            return 0
        key = (spec.features, spec.solver, spec.steps, spec.guidance_scale, spec.width, spec.height, spec.loras)
        if key not in self._known:
            if len(self._known) >= KNOWN:
                self._known.clear()
            reckoned = self._reckon(spec, spec.features)
            if reckoned is None:
                return 0
            self._known[key] = reckoned
        return self._known[key]

    def _reckon(self, spec: JobSpec, choice: FeatureChoice) -> int | None:
        """Return the bytes a choice takes, None if that could not be told this time."""
        try:
            if choice.alone:
                wanted = self._bytes_borrowed(find_backend(choice.policy), spec)
            else:
                wanted = self._bytes(self.recipe(spec, choice, 0), spec)
        except torch.AcceleratorError:
            raise
        except RecipeError:
            return 0
        except Exception:
            # `open` will say why.
            return None
        return wanted if wanted <= self.budget else 0

    def recipe(self, spec: JobSpec, choice: FeatureChoice, first_step: int) -> Recipe:
        """Return the layers a choice comes to.

        Raises:
            RecipeError: this model cannot run it; `Uncalibrated` where only the calibration is missing.
        """
        backbone = self.pipeline.network.backbone
        if backbone is None:
            raise RecipeError("feature caching does not know this model's denoiser")
        traits = traits_of(backbone, self.pipeline.info.guided(spec.guidance_scale))
        recipe = make_recipe(choice, traits, self._calibrations(spec), spec.steps, first_step)
        if not recipe.layers:
            raise RecipeError(f"{choice.policy} has nothing to cache in a run without an unconditional output")
        if (why := unfit(recipe, backbone)) is not None:
            raise RecipeError(why)
        return recipe

    def _calibrations(self, spec: JobSpec) -> Calibrations:
        info = self.pipeline.info
        if spec.loras:
            # Another network than the one calibrated.
            return Calibrations.none()
        return self.shelf.of(
            Conditions(
                weights_digest=info.weights_digest,
                schedule=info.schedule,
                solver=spec.solver,
                steps=spec.steps,
                width=spec.width,
                height=spec.height,
                guidance=spec.guidance_scale,
                dtype=info.dtype,
            )
        )

    def _bytes(self, recipe: Recipe, spec: JobSpec) -> int:
        backbone = self.pipeline.network.backbone
        profile = self.profile(spec.width, spec.height)
        if backbone is None or profile is None:
            return 0
        guided = self.pipeline.info.guided(spec.guidance_scale)
        # Every stage of a step has a history of its own.
        return stages_of(spec.solver) * profile.state_bytes(recipe, backbone, guided=guided)

    def _bytes_borrowed(self, backend: Backend, spec: JobSpec) -> int:
        """Return what another library remembers, reckoned from above; where that is not known, all there may be."""
        profile = self.profile(spec.width, spec.height)
        if spec.loras or profile is None:
            return 0 if spec.loras else self.budget
        parts = sum(size for layer in profile.values for _, size in layer)
        if backend.parts and not parts:
            return self.budget
        kept = backend.stacks * max(profile.boundaries) + backend.parts * parts + OUTPUTS * profile.output
        return kept * (1 + self.pipeline.info.guided(spec.guidance_scale))

    @torch.inference_mode()
    def profile(self, width: int, height: int) -> Profile | None:
        """Return what a network row costs in pictures of a size; None without a backbone.

        Args:
            width: pixels.
            height: pixels.
        """
        latents = self.pipeline.initial_noise(0, width, height)[None]
        condition = {name: tensor[None] for name, tensor in self.pipeline.encode("", width, height).items()}
        half = latents.new_tensor([0.5**0.5])
        time = latents.new_tensor([500.0])
        return self.pipeline.network.profile(
            Rows(latents, time, half, half, condition, condition, torch.ones_like(half))
        )
