"""The engine's contracts: what a job is, what it returns, what a model family must offer.

The engine owns the device: one loop, one owner, no locks. All active jobs advance one step at a time in
joint batches, whatever step each of them is at; a cache hit is only a job that enters at step K.
"""

from collections.abc import AsyncGenerator, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from policies.features.choice import FeatureChoice, FeatureReport
from service.engine.levels import Grid, Level
from service.engine.reference import Reference

if TYPE_CHECKING:  # at run time it would load diffusers into every process that knows the contracts
    from service.engine.features.network import Network
    from service.engine.features.run import FeatureRun
    from service.engine.foreign import ForeignRun

ImageArray = NDArray[np.uint8]
Entry = Literal["exact", "first-order restart"]
Architecture = Literal["unet", "transformer"]
Condition = Mapping[str, Tensor]
"""What the text encoders make of one prompt: named tensors without a batch dimension. The shapes are the same for
every prompt of one picture size, so that rows of a joint batch can be stacked."""
Group = tuple[Hashable, ...]
"""What jobs must share to share a forward."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """A stored noise state a job may enter at, and the bound the divergence gate holds it to.

    Attributes:
        latent: float16 [C, h, w], variance-preserving x_t.
        timestep: the model's time value of its noise level.
        log_snr: ln(alpha^2 / sigma^2) there.
        skip: share of the source run's steps before it.
        prediction: source run's pooled clean-latent prediction at this state, float16 [C, h', w'];
            None skips the gate (a run resumed from its own state).
        max_divergence: the gate's bound for it.
        depth: lineage depth of the state.
        deeper: states of the same run to go on from instead, deepest first. The gate judges here, once; the first
            whose `max_divergence` the value meets is entered, at the cost of the step spent on judging.
        approximated: see `CapturedState`.
    """

    latent: NDArray[np.float16]
    timestep: float
    log_snr: float
    skip: float
    prediction: NDArray[np.float16] | None
    max_divergence: float
    depth: int = 0
    deeper: tuple["ResumePoint", ...] = ()
    approximated: bool = False


@dataclass(frozen=True, slots=True, order=True)
class Lora:
    """A LoRA a picture is drawn with.

    A set of them is a tuple in ascending order, without repeated names and without scale 0: then equal sets are
    equal tuples, and their parts are summed in one order.

    Attributes:
        name: of its file, without the suffix.
        digest: SHA-256 of the file's content, 64 hex digits; the engine refuses a file of another.
        scale: how strong.
    """

    name: str
    digest: str
    scale: float


@dataclass(frozen=True, slots=True)
class JobSpec:
    """Everything the engine needs to run one job, and to run it again after a crash with the same result.

    Attributes:
        job_id: unique within the process.
        prompt: the positive prompt.
        negative_prompt: the negative prompt ("" = unconditional).
        seed: of the initial noise.
        steps: N.
        guidance_scale: classifier-free guidance (1.0 = none), or the number a guidance-distilled model is told.
        solver: one of the model's `ModelInfo.solvers`.
        width: pixels.
        height: pixels.
        resume: entry points in the order to try them; all refused = full run.
        capture: shares of the N steps at which to capture states, each in (0, 1). They also decide the picture:
            the running latent is rounded to float16 at each of them, so that a run resumed from the stored
            state equals the run that stored it. Pass the same shares for every request of a deployment,
            whether or not its states are kept, or "same seed, same picture" ends at the last decimals.
        preview_every: emit a preview picture every so many steps; 0 = never.
        deadline: time.monotonic() after which nobody wants the picture any more; None = never.
        loras: the LoRA set, for the text encoders too.
        features: what to reuse inside the network from step to step; None = nothing.
        isolated: whether its rows go through every network on their own, within the joint tick: kernels round by the
            number of rows, so a picture drawn among others may differ by one of 255 levels from the same drawn alone.
        diversity: share of a resumed state's noise to exchange for noise of `seed`, in [0, 1], see
            `engine.diversity`. Above 0 it takes one step more: the prediction at the state as it was stored.
        tenant: whose it is: waiting tenants get equal device time, times their weight.
        weight: of the tenant.
        reference: a picture to begin from in place of pure noise; `resume` must be of runs that began from it, too.
    """

    job_id: str
    prompt: str
    negative_prompt: str
    seed: int
    steps: int
    guidance_scale: float
    solver: str
    width: int
    height: int
    resume: tuple[ResumePoint, ...] = ()
    capture: tuple[float, ...] = ()
    preview_every: int = 0
    deadline: float | None = None
    loras: tuple[Lora, ...] = ()
    features: FeatureChoice | None = None
    isolated: bool = False
    diversity: float = 0.0
    tenant: str = ""
    weight: float = 1.0
    reference: Reference | None = None

    @property
    def begin(self) -> int:
        """The step of N that a run without a head start begins at: 0, unless it is given a picture."""
        return 0 if self.reference is None else self.reference.begin(self.steps)

    @property
    def group(self) -> Group:
        """Jobs of one group may share a forward."""
        shared = (self.width, self.height, self.loras)
        return (*shared, self.job_id) if self.features is not None and self.features.alone else shared

    @property
    def foreseen_steps(self) -> int:
        """N − K, if the first resume point is accepted, and gone on from at its deepest."""
        if not self.resume:
            return self.steps - self.begin
        point = self.resume[0]
        skipped = round(max([point.skip, *(state.skip for state in point.deeper)]) * self.steps)
        return self.steps - max(skipped, self.begin)

    @property
    def files(self) -> frozenset[tuple[str, str]]:
        """Name and digest of every LoRA it needs."""
        return frozenset((lora.name, lora.digest) for lora in self.loras)

    def overdue(self, now: float) -> bool:
        """Tell whether the deadline has passed at time.monotonic() `now`."""
        return self.deadline is not None and now >= self.deadline


@dataclass(frozen=True, slots=True)
class CapturedState:
    """A state taken on the way (same fields as `cache_store.types.NoiseState`).

    `approximated` tells whether anything inside the network was reused before it, in this run or in the runs it
    descends from.
    """

    latent: NDArray[np.float16]
    log_snr: float
    timestep: float
    skip: float
    prediction: NDArray[np.float16]
    depth: int
    approximated: bool = False


@dataclass(frozen=True, slots=True)
class CleanLatent:
    """Where a run ended: x_0 in the model's own scaled latent space, what the decoder is given.

    Attributes:
        latent: float16 [C, h, w].
        depth: how many resumes lie between it and pure noise.
        approximated: whether anything inside the network was reused before it, see `CapturedState`.
    """

    latent: NDArray[np.float16]
    depth: int
    approximated: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of one job is done, or (step == first_step) the job enters the loop.

    An entry the gate refuses is followed by another, with a smaller first_step; so is a death of the engine.

    Attributes:
        job_id: which job.
        step: denoising steps done, skipped ones included (K at entry .. N).
        steps: N.
        first_step: K, where the job entered (0 = pure noise).
        preview: uint8 [H, W, 3] or None.
        denoise_seconds: this job's share of the device time so far, as in `JobResult`: steps thrown away are in it,
            those before a death of the engine are not.
        encode_seconds: see `JobResult`.
    """

    job_id: str
    step: int
    steps: int
    first_step: int
    preview: ImageArray | None = None
    denoise_seconds: float = 0.0
    encode_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class JobResult:
    """A finished job.

    Attributes:
        job_id: which job.
        image: uint8 [H, W, 3].
        resumed: index into `JobSpec.resume` of the point used, or None for a full run.
        deeper: index into that point's `deeper` of the state gone on from; None = its own.
        steps: N.
        skipped: K, steps of N not run, those before `begin` included.
        wasted: steps begun and thrown away (the gate refused, or sent the run deeper; noise was exchanged).
        divergences: the gate's value per entry of `JobSpec.resume` tried, in order, so divergences[i] belongs to
            resume[i]; NaN where nothing was compared (no prediction, or a point that does not fit this job).
        captured: states taken, shallowest first.
        queue_seconds: from submission to the first step.
        denoise_seconds: this job's share of the device time of its steps (step time ÷ rows, summed).
        step_seconds: mean device time of one of its steps (denoise_seconds ÷ steps run, wasted ones included).
        decode_seconds: its share of the VAE decode.
        restarts: how often it was re-run because the engine died.
        extra_evaluations: network evaluations beyond one per step run, of solvers that take more.
        entry: for a resumed run: "exact" if the solver goes on from the state as an uninterrupted run would, or
            "first-order restart" if it looks at earlier steps, which the state does not hold.
        features: what feature caching did; None where none was asked for.
        final: the clean latent the picture was decoded from.
        isolated: whether no network saw its rows beside another job's, asked for or by chance: then the same job run
            with `JobSpec.isolated` gives the same bits.
        diversity: share of the entered state's noise that was exchanged; 0 = none, as in every full run.
        tick_seconds: mean time of the joint steps it took part in, everything around the network included.
        tick_pixels: mean pixels they worked on, see `admission.step_pixels`.
        begin: the step of N that its full run begins at, see `JobSpec.begin`.
        encode_seconds: device time of encoding the picture it was drawn over; 0 where another job's was of use.
    """

    job_id: str
    image: ImageArray
    resumed: int | None
    steps: int
    skipped: int
    wasted: int
    divergences: tuple[float, ...]
    captured: tuple[CapturedState, ...]
    queue_seconds: float
    denoise_seconds: float
    step_seconds: float
    decode_seconds: float
    restarts: int = 0
    deeper: int | None = None
    extra_evaluations: int = 0
    entry: Entry | None = None
    features: FeatureReport | None = None
    final: CleanLatent | None = None
    isolated: bool = False
    diversity: float = 0.0
    tick_seconds: float = 0.0
    tick_pixels: float = 0.0
    begin: int = 0
    encode_seconds: float = 0.0

    @property
    def device_seconds(self) -> float:
        """Device time it took, all in all."""
        return self.encode_seconds + self.denoise_seconds + self.decode_seconds

    @property
    def head_start(self) -> int:
        """Steps a stored state made unnecessary."""
        return self.skipped if self.begin == 0 else 0 if self.resumed is None else self.skipped - self.begin

    @property
    def steps_run(self) -> int:
        """Steps that were run, wasted ones included."""
        return self.steps - self.skipped + self.wasted

    @property
    def evaluations(self) -> int:
        """Network evaluations, those of wasted steps included: what the job cost. One per step, for most solvers."""
        return self.steps_run + self.extra_evaluations


@dataclass(frozen=True, slots=True)
class JobFailed:
    """A job that cannot be finished.

    Attributes:
        job_id: which job.
        code: "cancelled", "deadline", "out-of-memory", "not-finite", "engine-lost", "lora-unfit", "lora-changed" or
            "internal".
        message: safe to show to a client: no path, prompt or traceback.
    """

    job_id: str
    code: str
    message: str


MESSAGES = {
    "out-of-memory": "the device has too little memory for this picture",
    "not-finite": "the model produced values that are not finite",
    "deadline": "the picture was not finished by its deadline",
    "lora-unfit": "a LoRA of this request does not fit this model",
    "lora-changed": "the file of a LoRA was replaced or removed meanwhile; try again",
    "internal": "the engine could not finish this picture",
}
"""What a client is told of a failure, by `JobFailed.code`."""

JobEvent = Progress | JobResult | JobFailed


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What the rest of the service needs to know of the loaded model.

    Attributes:
        model_id: folder name or hub id.
        weights_digest: hash of the weights and configs that decide the pictures.
        family: e.g. "stable-diffusion".
        prediction_type: "epsilon", "v_prediction", "sample" or "flow".
        schedule: a stable name of the noise schedule (betas, terminal SNR, spacing), e.g. a short hash.
        width: default pixels.
        height: default pixels.
        size_multiple: width and height must be multiples of it.
        max_size: largest side in pixels.
        default_steps: N when the request names none.
        default_guidance: guidance when the request names none.
        solvers: solver names it can run, default first.
        latent_channels: C.
        dtype: number type the networks compute in, "+int8" if the denoiser's weights are kept as integers: other
            rounding, other pictures.
        guidance: "classifier-free" (a guided job costs a second network row), "embedded" (the network is told the
            scale) or "none".
        loras: whether the family takes LoRAs, and the model as it is loaded.
        architecture: of the denoiser, "unet" or "transformer".
        feature_policies: names of the feature caching methods this model can run; () = feature caching is off.
        device: torch's name of where it runs.
        threads: of the CPU, for the networks' maths; their number decides how sums are split, and so rounded.
    """

    model_id: str
    weights_digest: str
    family: str
    prediction_type: str
    schedule: str
    width: int
    height: int
    size_multiple: int
    max_size: int
    default_steps: int
    default_guidance: float
    solvers: tuple[str, ...]
    latent_channels: int
    dtype: str = "float32"
    guidance: str = "classifier-free"
    loras: bool = False
    architecture: Architecture = "unet"
    feature_policies: tuple[str, ...] = ()
    device: str = "cpu"
    threads: int = 0

    @property
    def quantised(self) -> bool:
        """Whether the denoiser's weights are kept as integers."""
        return "+" in self.dtype

    def guided(self, scale: float) -> bool:
        """Tell whether a guidance scale costs a second network row."""
        return self.guidance == "classifier-free" and scale > 1.0


@dataclass(frozen=True)
class Rows:
    """A joint batch for one network evaluation; row i of every tensor belongs to one job.

    Attributes:
        latents: float32 [B, C, h, w], variance-preserving x_t = alpha x0 + sigma noise, whatever the family.
        timesteps: float32 [B], the model's own time values.
        alphas: float32 [B].
        sigmas: float32 [B].
        conditions: of the prompts, each tensor [B, ...].
        negatives: of the negative prompts, each tensor [B, ...]; rows without guidance hold anything finite.
        guidance: float32 [B].
        loras: the one LoRA set of all rows.
        features: per row its job's feature caching, None where it has none; () if no row has any.
    """

    latents: Tensor
    timesteps: Tensor
    alphas: Tensor
    sigmas: Tensor
    conditions: Condition
    negatives: Condition
    guidance: Tensor
    loras: tuple[Lora, ...] = ()
    features: "tuple[FeatureRun | None, ...]" = ()


class Pipeline(Protocol):
    """Hides one model family; every method is deterministic.

    Called from the engine's one thread only, but for `decode`, which another thread may run at the same time.

    The LoRA set is an argument like any other, never a mode: `encode` and `predict` load and switch what they need,
    and without LoRAs give the very bits they gave before any was loaded. Both raise `LoraError` for a set that cannot
    be used, and work again with the next.

    Feature caching of rows that have it happens inside `predict`: it decides, reuses, and hands what it has computed
    to each row's `FeatureRun`, which takes it over only when told that the evaluation went well.
    """

    info: ModelInfo
    network: "Network"

    def encode(
        self, prompt: str, width: int, height: int, *, negative: bool = False, loras: tuple[Lora, ...] = ()
    ) -> Condition:
        """Return what the text encoders make of a prompt, and the size conditions that go with it.

        A pure function of its arguments: every prompt is encoded alone, and remembered.
        """

    def initial_noise(self, seed: int, width: int, height: int) -> Tensor:
        """Return unit Gaussian noise float32 [C, h, w], a pure function of its arguments, equal on all devices."""

    def encode_picture(self, image: ImageArray) -> Tensor:
        """Return the clean latent of a picture uint8 [H, W, 3], float32 [C, h, w]: the mean of what the VAE gives."""

    def grid(self, solver: str, steps: int, width: int, height: int) -> Grid:
        """Return the time values and noise levels of an N-step run, as diffusers' scheduler of that name has them.

        Of vectorised solvers only (`solvers.SOLVERS`).
        """

    def foreign(self, solver: str, steps: int, width: int, height: int, entry: float | None) -> "ForeignRun":
        """Return a fresh scheduler of diffusers' for one attempt of a job.

        Args:
            solver: one of `info.solvers` that is not vectorised (`foreign.METHODS`).
            steps: N.
            width: pixels.
            height: pixels.
            entry: time value of the state it enters at; None = from pure noise.
        """

    def level(self, timestep: float) -> Level:
        """Return the noise level at a time value, whole or fractional."""

    def predict(self, rows: Rows) -> Tensor:
        """Return the guided prediction of the clean latent x0, float32 [B, C, h, w]."""

    def unguided(self, rows: Rows) -> Tensor | None:
        """Return what the last `predict`, of the same rows, would have been without guidance, float32 [B, C, h, w].

        None if no row had any, or not all rows were computed.
        """

    def differentiable(self, rows: Rows) -> Tensor:
        """Return what `predict` does, with the gradients the rows' latents ask for (probes; never the loop).

        Conditions must not have been made in inference mode: clone those of `encode`. Rows with feature caching have
        no gradient.
        """

    def decode(self, latents: Tensor) -> ImageArray:
        """Return uint8 [B, H, W, 3] pictures of clean latents [B, C, h, w]."""


@dataclass
class EngineStats:
    """Counters and gauges of an engine, for metrics.

    Attributes:
        active: jobs advancing now.
        waiting: jobs submitted and not yet admitted.
        restarts: how often the engine process died and was started again.
        ready: the model is loaded and the loop runs.
        batch_sizes: forwards of the network so far by number of jobs in them.
        step_seconds: recent mean of one job's share of the device time of a step.
        feature_bytes: what feature caching remembers for all active jobs.
        feature_evaluations: network evaluations so far of jobs with feature caching, by "computed" (everything was)
            and "reused" (something was).
    """

    active: int = 0
    waiting: int = 0
    restarts: int = 0
    ready: bool = False
    batch_sizes: dict[int, int] = field(default_factory=dict)
    step_seconds: float = 0.0
    feature_bytes: int = 0
    feature_evaluations: dict[str, int] = field(default_factory=dict)


class Engine(Protocol):
    """Runs jobs; implemented in-process (tests, benchmarks) and as a supervised child process (service)."""

    @property
    def info(self) -> ModelInfo:
        """The loaded model."""

    @property
    def stats(self) -> EngineStats:
        """A snapshot of counters."""

    async def start(self) -> None:
        """Load the model and start the loop; raises EngineStartError with one clear line."""

    def run(self, spec: JobSpec) -> AsyncGenerator[JobEvent, None]:
        """Run a job: Progress events, then exactly one JobResult or JobFailed.

        Closing the iterator (`aclose`, or cancelling its task) cancels the job at the next step. A `job_id` that
        is still running raises ValueError.
        """

    async def close(self, *, grace_seconds: float = 0.0) -> None:
        """Stop: wait up to `grace_seconds` for running jobs, then cancel the rest."""


class EngineStartError(Exception):
    """The engine could not load its model; the message is one clear line."""
