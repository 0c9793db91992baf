"""How a picture came about: everything that decides its pixels, and enough to draw it again bit for bit."""

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from policies.features.choice import FeatureChoice
from policies.features.methods import VERSION as METHODS_VERSION
from policies.matching import ThresholdTable
from policies.matching.base import StateForm, StateRef
from service.engine.base import ImageArray, JobResult, JobSpec, Lora, ModelInfo, ResumePoint
from service.engine.reference import Reference
from service.keys import text_hash
from service.planner import remembers
from service.types import Plan, Verdict
from service.verdicts import is_hidden


@dataclass(frozen=True, slots=True)
class StateUsed:
    """A noise state a run was judged at or resumed from.

    Attributes:
        entry_id: whose state it is.
        log_snr: its noise level.
        timestep: the model's own time value there.
        skip: share of its run's steps that lie before it.
        depth: how many resumes lie between it and pure noise.
        approximated: whether features were reused on the way to it.
        form: what the store kept of it.
        max_divergence: the gate's bound for it; None = no bound.
        sha256: of its float16 latent, as it was entered.
    """

    entry_id: int
    log_snr: float
    timestep: float
    skip: float
    depth: int
    approximated: bool
    form: StateForm
    max_divergence: float | None
    sha256: str

    @property
    def ref(self) -> StateRef:
        """What the store knows it by."""
        return StateRef(self.log_snr, self.skip, has_prediction=False, approximated=self.approximated, form=self.form)


@dataclass(frozen=True, slots=True)
class ReferenceUsed:
    """The picture a run began from; it is not kept.

    Attributes:
        sha256: see `Reference.digest`.
        strength: share of the steps that were run on it.
        begin: the step of N at which it was entered.
        masked: whether part of it was kept.
    """

    sha256: str
    strength: float
    begin: int
    masked: bool


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where one picture comes from.

    Texts are None where the run may not be remembered (`cache.store` false, mode `off`); their digests tell whether a
    text given later is the same.

    Attributes:
        generation: id of the picture.
        tenant: whose it is.
        verdict: what the cache did, see `VerdictKind`.
        reason: why, in one bounded word.
        prompt: what was to be drawn.
        negative_prompt: what was not.
        prompt_sha256: of the prompt's UTF-8 bytes.
        negative_prompt_sha256: likewise.
        seed: of the noise.
        steps: N.
        solver: one of the model's.
        guidance_scale: classifier-free guidance.
        width: pixels.
        height: pixels.
        loras: the LoRA set.
        capture: shares of the steps at which the latent was rounded to float16.
        features: the feature caching that ran; None = none did.
        isolated: whether its rows went through the networks on their own, see `JobResult.isolated`.
        entered: the state resumed from; None = from pure noise.
        judged: the state the gate judged at, where that is another one.
        repeats: the entry whose stored picture was returned, for `EXACT`.
        skipped: K.
        wasted: steps run and thrown away.
        similarity: cosine similarity of the entry used, or of the best one.
        divergence: the gate's last value.
        versions: of all that decides a pixel.
        sha256: of the pixels, uint8 [H, W, 3] in that order.
        hidden: whether the client may not be told what was found, see `verdicts.shown`.
        diversity: share of the entered state's noise that was exchanged for the seed's.
        reference: the picture it began from; None = pure noise.
    """

    generation: str
    tenant: str
    verdict: str
    reason: str
    prompt: str | None
    negative_prompt: str | None
    prompt_sha256: str
    negative_prompt_sha256: str
    seed: int
    steps: int
    solver: str
    guidance_scale: float
    width: int
    height: int
    loras: tuple[Lora, ...]
    capture: tuple[float, ...]
    features: FeatureChoice | None
    isolated: bool
    entered: StateUsed | None
    judged: StateUsed | None
    repeats: int | None
    skipped: int
    wasted: int
    similarity: float | None
    divergence: float | None
    versions: Mapping[str, str]
    sha256: str
    hidden: bool = False
    # Records of before there was any hold none.
    diversity: float = 0.0
    reference: ReferenceUsed | None = None

    @property
    def steps_in_full(self) -> int:
        """Steps that a run without a head start takes: of an edit those from where its picture is entered."""
        return self.steps - (0 if self.reference is None else self.reference.begin)

    @property
    def source(self) -> int | None:
        """The entry resumed from, or repeated."""
        return self.repeats if self.entered is None else self.entered.entry_id

    def job(
        self,
        job_id: str,
        prompt: str,
        negative_prompt: str,
        resume: tuple[ResumePoint, ...],
        reference: Reference | None = None,
    ) -> JobSpec:
        """Return the job that draws it again.

        Args:
            job_id: unique in the process.
            prompt: its text.
            negative_prompt: likewise.
            resume: where to enter, ungated; () = from pure noise, or the picture.
            reference: the picture it began from.
        """
        return JobSpec(
            job_id=job_id,
            prompt=prompt,
            negative_prompt=negative_prompt,
            seed=self.seed,
            steps=self.steps,
            guidance_scale=self.guidance_scale,
            solver=self.solver,
            width=self.width,
            height=self.height,
            resume=resume,
            capture=self.capture,
            loras=self.loras,
            features=self.features,
            isolated=True,  # what was drawn among others is drawn most nearly so
            diversity=self.diversity,
            reference=reference,
        )


_ADAPTER = TypeAdapter(Provenance)


def dump(provenance: Provenance) -> str:
    """Return it as JSON."""
    return _ADAPTER.dump_json(provenance).decode()


def parse(body: str) -> Provenance | None:
    """Return what `dump` was given; None for what another version wrote."""
    try:
        return _ADAPTER.validate_json(body)
    except ValidationError:
        return None


def pixels_sha256(image: ImageArray) -> str:
    """Return the digest of a picture's pixels, uint8 [H, W, 3]: of no file format, and so of none of its encoders."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


def latent_sha256(latent: NDArray[np.float16]) -> str:
    """Return the digest of a state's latent, float16 [C, h, w]."""
    return hashlib.sha256(np.ascontiguousarray(latent, np.float16).tobytes()).hexdigest()


def versions_of(
    info: ModelInfo, embedder_digest: str, table: ThresholdTable | None, calibration: str
) -> dict[str, str]:
    """Return the versions of everything that decides a pixel, and of what chose the state to resume from.

    Args:
        info: the served model.
        embedder_digest: of the embedding model.
        table: the threshold table, if there is one.
        calibration: digest of what feature caching was calibrated to.
    """
    return {
        **{library: version(library) for library in ("headstart", "torch", "diffusers", "transformers")},
        "model": info.model_id,
        "weights_digest": info.weights_digest,
        "schedule": info.schedule,
        "device": info.device,
        "dtype": info.dtype,
        "threads": str(info.threads),
        "embedder_digest": embedder_digest,
        "table_digest": "" if table is None else table.digest,
        "feature_methods": str(METHODS_VERSION),
        "feature_calibration": calibration,
    }


def provenance_of(
    plan: Plan, verdict: Verdict, result: JobResult | None, image: ImageArray, versions: Mapping[str, str]
) -> Provenance:
    """Return where an answered picture comes from; hashes its pixels, see `pictures.aside`.

    Args:
        plan: how it was planned.
        verdict: what the client is told.
        result: of the run; None for a stored picture.
        image: the picture, uint8 [H, W, 3].
        versions: see `versions_of`.
    """
    request, kept = plan.request, remembers(plan.request)
    entered, judged = (None, None) if result is None else _states_used(plan, result)
    return Provenance(
        generation=request.request_id,
        tenant=request.tenant,
        verdict=verdict.kind.value,
        reason=verdict.reason,
        prompt=request.prompt if kept else None,
        negative_prompt=request.negative_prompt if kept else None,
        prompt_sha256=text_hash(request.prompt),
        negative_prompt_sha256=text_hash(request.negative_prompt),
        seed=request.seed,
        steps=request.steps,
        solver=request.scheduler,
        guidance_scale=request.guidance_scale,
        width=request.width,
        height=request.height,
        loras=request.loras,
        capture=plan.capture,
        features=_features_as_run(plan, result),
        isolated=plan.isolated if result is None else result.isolated,
        entered=entered,
        judged=judged,
        repeats=plan.source.entry_id if result is None and plan.source else None,
        skipped=verdict.skipped,
        wasted=verdict.wasted,
        similarity=verdict.similarity,
        divergence=verdict.divergence,
        versions=versions,
        sha256=pixels_sha256(image),
        hidden=is_hidden(request, verdict),
        diversity=verdict.diversity,
        reference=_reference_used(plan),
    )


def _reference_used(plan: Plan) -> ReferenceUsed | None:
    given = plan.request.reference
    if given is None:
        return None
    return ReferenceUsed(given.digest, given.strength, plan.request.begin, given.mask is not None)


def _features_as_run(plan: Plan, result: JobResult | None) -> FeatureChoice | None:
    """Return the choice that decided the picture: what was given up in a run has left no trace in it."""
    if result is None:
        return plan.features.choice
    ran = result.features is not None and result.features.reason is None
    return plan.features.choice if ran else None


def _states_used(plan: Plan, result: JobResult) -> tuple[StateUsed | None, StateUsed | None]:
    """Return the state entered, and the one judged at if it is another."""
    if plan.job is None or result.resumed is None:
        return None, None
    point, attempt = plan.job.resume[result.resumed], plan.attempts[result.resumed]
    first = _used(attempt.entry_id, point, attempt.state.form)
    if result.deeper is None:
        return first, None
    rung = attempt.deeper[result.deeper]
    return _used(attempt.entry_id, point.deeper[result.deeper], rung.state.form), first


def _used(entry_id: int, point: ResumePoint, form: StateForm) -> StateUsed:
    return StateUsed(
        entry_id=entry_id,
        log_snr=point.log_snr,
        timestep=point.timestep,
        skip=point.skip,
        depth=point.depth,
        approximated=point.approximated,
        form=form,
        max_divergence=point.max_divergence if math.isfinite(point.max_divergence) else None,
        sha256=latent_sha256(point.latent),
    )
