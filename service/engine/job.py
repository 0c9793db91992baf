"""A job: one request inside the engine, wherever it entered the denoising loop."""

import math
from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policies.features.base import StepContext
from service.engine.base import (
    CapturedState,
    CleanLatent,
    Condition,
    Entry,
    ImageArray,
    JobResult,
    JobSpec,
    Pipeline,
    Progress,
    ResumePoint,
)
from service.engine.diversity import exchanged, fresh_noise
from service.engine.features.caches import FeatureCaches
from service.engine.features.part import JobFeatures
from service.engine.features.run import FeatureRun
from service.engine.foreign import FOREIGN, METHODS, ForeignRun
from service.engine.gate import divergence, passes
from service.engine.levels import SAME_TIME, Level
from service.engine.reference import Canvas, Easel
from service.engine.solvers import SOLVERS, Memory, Solver, Update, plan_step

# A stored log-SNR further than this from the model's own at that time belongs to another noise schedule.
SAME_LOG_SNR = 0.1
# Beyond it there is nothing but signal, or nothing but noise.
MOST_LOG_SNR = 50.0


def capture_steps(shares: tuple[float, ...], steps: int) -> tuple[int, ...]:
    """Return the step indices k = round(share * N), ascending, without repeats, 1 <= k < N.

    Args:
        shares: shares of the run, each in (0, 1).
        steps: N.

    Returns:
        Indices into the N-step schedule: a state at k has k steps before it.
    """
    return tuple(sorted({k for k in (round(share * steps) for share in shares) if 1 <= k < steps}))


@dataclass(frozen=True)
class Route:
    """The noise levels one attempt of a job walks through.

    Attributes:
        times: time value of each network evaluation, descending.
        levels: noise level at each of them and, last, the one the run ends at.
        skipped: K, steps of N this route does not run (negative if it runs more).
        captures: position in `times` -> share k / N of the N-step run that lies before it.
        starts: position in `times` each step begins at.
        exact: whether a run that enters here goes on as an uninterrupted one would.
        start: what the initial unit noise is multiplied by.
        foreign: the scheduler of a solver that is not vectorised, for one attempt.
    """

    times: tuple[float, ...]
    levels: tuple[Level, ...]
    skipped: int
    captures: dict[int, float]
    starts: tuple[int, ...]
    exact: bool
    start: float = 1.0
    foreign: ForeignRun | None = field(default=None, compare=False)


def plan_route(pipeline: Pipeline, spec: JobSpec, entry: float | None = None) -> Route:
    """Lay out a full run, or one that enters at a stored state's own time value.

    A resumed run is the state's time followed by those of the N-step schedule below it: states made under another
    N are matched by noise level, never by index.

    Args:
        pipeline: gives the schedule.
        spec: the job.
        entry: time value of the state to resume from; None = from pure noise.

    Returns:
        The route, with the capture levels that lie after its entry.
    """
    if spec.solver in METHODS:
        run = pipeline.foreign(spec.solver, spec.steps, spec.width, spec.height, entry)
        return _foreign_route(run, spec, resumed=entry is not None)
    grid = pipeline.grid(spec.solver, spec.steps, spec.width, spec.height)
    times, levels = list(grid.times), list(grid.levels)
    if entry is not None:
        kept = [k for k, time in enumerate(times) if time < entry - SAME_TIME]
        first = levels[times.index(entry)] if entry in times else pipeline.level(entry)
        times = [entry, *(times[k] for k in kept)]
        levels = [first, *(levels[k] for k in kept), levels[-1]]
    offset = spec.steps - len(times)
    captures = {
        k - offset: k / spec.steps
        for k in capture_steps(spec.capture, spec.steps)
        if k - offset >= (0 if entry is None else 1)
    }
    exact = SOLVERS[spec.solver].depth == 0
    return Route(tuple(times), tuple(levels), offset, captures, tuple(range(len(times))), exact, grid.start)


def plan_edit(pipeline: Pipeline, spec: JobSpec, begin: int) -> Route:
    """Lay out a run that enters at step `begin` of the N-step schedule, to the level of which a picture is noised."""
    full = plan_route(pipeline, spec)
    return plan_route(pipeline, spec, full.times[full.starts[min(begin, len(full.starts) - 1)]])


def _foreign_route(run: ForeignRun, spec: JobSpec, *, resumed: bool) -> Route:
    skipped = spec.steps - len(run.starts)
    captures = {}
    for wanted in capture_steps(spec.capture, spec.steps):
        step = wanted - skipped
        # Back to where the latent alone is the state.
        while step > 0 and not run.holds(step):
            step -= 1
        if step > 0 or (step == 0 and not resumed and skipped + step > 0):
            captures[run.starts[step]] = (skipped + step) / spec.steps
    return Route(run.times, run.levels, skipped, captures, run.starts, run.exact, run.start, run)


@dataclass
class Held:
    """An event that waits for its preview, or behind one that does."""

    event: Progress
    waits: bool


@dataclass
class Job:
    """A request's latent row, solver memory and accounts. Used from the engine's one thread only.

    Attributes:
        spec: what was asked.
        submitted: time.monotonic() at submission.
        condition: what the text encoders make of the prompt.
        negative: and of the negative prompt.
        guided: whether classifier-free guidance applies (a second network row).
        held: events not told yet, because the first of them waits for its preview.
        gone: nobody waits for it any more.
        caching: feature caching of all its attempts.
        joined: whether a network saw its rows beside another job's in this attempt.
        canvas: the picture it begins from; None = pure noise.
        exchanged: whether part of the entered state's noise was exchanged.
        ticks: joint steps it took part in.
        tick_seconds: the time of them all.
        tick_pixels: the pixels they worked on, summed.
    """

    spec: JobSpec
    submitted: float
    condition: Condition
    negative: Condition
    guided: bool
    solver: Solver
    route: Route
    latent: Tensor
    caching: JobFeatures
    canvas: Canvas | None = None
    point: ResumePoint | None = None
    resumed: int | None = None
    deeper: int | None = None
    index: int = 0
    denoised: Tensor | None = None
    memory: Memory = field(default_factory=Memory)
    divergences: list[float] = field(default_factory=list)
    captured: list[CapturedState] = field(default_factory=list)
    wasted: int = 0
    evaluations: int = 0
    retried: bool = False
    queue_seconds: float = 0.0
    encode_seconds: float = 0.0
    denoise_seconds: float = 0.0
    decode_seconds: float = 0.0
    held: list[Held] = field(default_factory=list)
    gone: bool = False
    joined: bool = False
    exchanged: bool = False
    ticks: int = 0
    tick_seconds: float = 0.0
    tick_pixels: float = 0.0

    @classmethod
    def create(
        cls,
        spec: JobSpec,
        submitted: float,
        pipeline: Pipeline,
        caches: FeatureCaches | None = None,
        easel: Easel | None = None,
    ) -> "Job":
        """Encode the prompts and enter the first attempt.

        Args:
            spec: what was asked.
            submitted: time.monotonic() at submission.
            pipeline: the loaded model.
            caches: opens feature caching; None = there is none.
            easel: encodes a given picture; None = one of its own.

        Raises:
            ValueError: the spec names a solver the model does not have.
            LoraError: one of its LoRAs cannot be used.
        """
        if spec.solver not in pipeline.info.solvers:
            raise ValueError(f"unknown solver {spec.solver!r}")
        guided = pipeline.info.guided(spec.guidance_scale)
        condition = pipeline.encode(spec.prompt, spec.width, spec.height, loras=spec.loras)
        negative = condition
        if guided:
            size = (spec.width, spec.height)
            negative = pipeline.encode(spec.negative_prompt, *size, negative=True, loras=spec.loras)
        noise = pipeline.initial_noise(spec.seed, spec.width, spec.height)
        route = plan_route(pipeline, spec)
        solver = FOREIGN if route.foreign else SOLVERS[spec.solver]
        canvas, encode_seconds = (easel or Easel(pipeline)).canvas(spec, noise)
        caching = JobFeatures(spec, caches)
        job = cls(spec, submitted, condition, negative, guided, solver, route, noise, caching, canvas)
        job.encode_seconds = encode_seconds
        job.next_attempt(pipeline)
        return job

    def next_attempt(self, pipeline: Pipeline) -> None:
        """Enter at the next resume point that fits this job, or in full when none is left."""
        while (tried := len(self.divergences)) < len(self.spec.resume):
            point = self.spec.resume[tried]
            route = self._route_from(point, pipeline)
            if route is not None:
                self._enter(route, torch.tensor(point.latent).to(self.latent), point, tried)
                if point.prediction is None:
                    self.divergences.append(math.nan)
                return
            self.divergences.append(math.nan)
        self.enter_full(pipeline)

    def enter_full(self, pipeline: Pipeline) -> None:
        """Start (again) from the seed's own noise, over a picture if one is given, with all capture levels."""
        noise = pipeline.initial_noise(self.spec.seed, self.spec.width, self.spec.height)
        if self.canvas is not None:
            route = plan_edit(pipeline, self.spec, self.spec.begin)
            self._enter(route, self.canvas.noised(route.levels[0], noise), None, None)
            return
        route = plan_route(pipeline, self.spec)
        self._enter(route, noise * route.start, None, None)

    def _enter(self, route: Route, latent: Tensor, point: ResumePoint | None, resumed: int | None) -> None:
        self.route, self.latent, self.point, self.resumed, self.deeper = route, latent, point, resumed, None
        self.index, self.memory, self.denoised, self.captured = 0, Memory(), None, []
        self.joined = self.exchanged = False
        self.caching.open(max(0, route.skipped))

    @property
    def features(self) -> FeatureRun | None:
        """Feature caching of this attempt; None where there is none."""
        return self.caching.run

    def give_up_features(self, reason: str, pipeline: Pipeline) -> bool:
        """Go on without feature caching; tell whether the run begins anew, in full, because it has reused something.

        So a picture that says it was drawn without was drawn without, whenever that was decided.

        Args:
            reason: one of `FeatureReport.reason`.
            pipeline: gives noise and schedule.
        """
        reused = self.caching.forgo(reason)
        if reused:
            self.wasted += self.steps_done
            self.enter_full(pipeline)
        return reused

    def begin_features(self) -> None:
        """Tell feature caching which evaluation comes."""
        if self.features is not None:
            self.features.begin(self._context(), self.index)

    def _context(self) -> StepContext:
        begun = bisect_right(self.route.starts, self.index) - 1
        first = max(0, self.route.skipped)
        level = self.route.levels[self.index]
        return StepContext(
            step=min(first + begun, self.spec.steps - 1),
            stage=self.index - self.route.starts[begun],
            steps=self.spec.steps,
            first_step=first,
            executed=begun,
            timestep=self.route.times[self.index],
            log_snr=min(max(level.log_snr, -MOST_LOG_SNR), MOST_LOG_SNR),
        )

    @property
    def network_rows(self) -> float:
        """What this evaluation took of the network, in whole rows: two for a guided job without feature caching."""
        return (1 + self.guided) * self.caching.cost

    def _route_from(self, point: ResumePoint, pipeline: Pipeline) -> Route | None:
        """Return the route from a point that saves steps, has this job's shape and lies on this model's schedule.

        A point with deeper ones need not save steps itself: judging there may still lead deeper.
        """
        if not (math.isfinite(point.timestep) and point.timestep >= 0):
            return None
        if point.latent.shape != tuple(self.latent.shape) or not np.isfinite(point.latent).all():
            return None
        route = plan_route(pipeline, self.spec, point.timestep)
        least = self.spec.begin if point.deeper else self._fewest_skipped
        fits = route.skipped >= least and abs(route.levels[0].log_snr - point.log_snr) <= SAME_LOG_SNR
        return route if fits else None

    @property
    def done(self) -> bool:
        """Whether the latent is clean."""
        return self.index == len(self.route.times)

    @property
    def steps_done(self) -> int:
        """Steps of this attempt that are behind the latent, begun ones not counted."""
        starts = self.route.starts
        return len(starts) if self.done else bisect_right(starts, self.index) - 1

    @property
    def between_steps(self) -> bool:
        """Whether the latent is at the end of a step, not on the way to it."""
        return self.done or self.index in self.route.starts

    @property
    def captures_now(self) -> bool:
        """Whether the state before the coming step is one to keep."""
        return self.index in self.route.captures

    @property
    def _fewest_skipped(self) -> int:
        """K from which on a resume saves a step: exchanging noise takes one."""
        return self.spec.begin + 1 + (self.spec.diversity > 0)

    @property
    def gated_now(self) -> bool:
        """Whether the coming step is the one the divergence gate judges: at the state as it was stored."""
        entered = self.index == 0 and self.deeper is None and not self.exchanged
        return entered and self.point is not None and self.point.prediction is not None

    @property
    def exchanges_now(self) -> bool:
        """Whether the coming step only tells the prediction by which the state's noise is exchanged."""
        return self.index == 0 and self.point is not None and self.spec.diversity > 0 and not self.exchanged

    def exchange(self, denoised: Tensor, pipeline: Pipeline) -> bool:
        """Enter the same state again with part of its noise exchanged; False where it no longer fits.

        Args:
            denoised: predicted clean latent at the state, float32 [C, h, w].
            pipeline: gives the schedule.
        """
        point, deeper = self.deeper_point or self.point, self.deeper
        route = None if point is None else self._route_from(point, pipeline)
        if route is None:
            return False
        fresh = fresh_noise(self.spec.seed, self.latent)
        mixed = exchanged(self.latent, denoised, route.levels[0], self.spec.diversity, fresh)
        joined = self.joined
        self.discard()
        self._enter(route, mixed, self.point, self.resumed)
        self.deeper, self.joined, self.exchanged = deeper, joined, True
        return True

    def with_kept(self, denoised: Tensor) -> Tensor:
        """Return a prediction of the clean latent [C, h, w] with what is kept of a given picture as it is there."""
        return denoised if self.canvas is None else self.canvas.with_kept(denoised)

    def round_for_capture(self) -> None:
        """Round the latent to what a stored state can hold, at every capture level, stored or not.

        The full run itself goes on from the rounded value; a run resumed from the stored state is then the same
        run, bit for bit. Depends only on N and the capture shares.
        """
        if self.captures_now:
            self.latent = self.latent.half().float()

    def judge(self, pooled: NDArray[np.float16], influence: float | None) -> float:
        """Record and return the gate's value for the entered point.

        Args:
            pooled: this prompt's own pooled prediction at the entered state.
            influence: what guidance changes in it, see `gate.influence`; None without guidance.
        """
        value = math.nan
        if self.point is not None and self.point.prediction is not None:
            value = divergence(pooled, self.point.prediction, influence)
        self.divergences.append(value)
        return value

    def stays(self, value: float) -> bool:
        """Tell whether the gate's value lets the run go on from the entered state itself, and that saves steps."""
        saves = self.route.skipped >= self._fewest_skipped
        return self.point is None or (saves and passes(value, self.point.max_divergence))

    def keep_judged(self, pooled: NDArray[np.float16]) -> None:
        """Keep the state this run was judged at as its own, with this prompt's prediction at it.

        So later prompts can be judged against this run as early as against any other. Not where nothing deeper will
        be captured: it would be but a copy of what the source holds. Nor where noise is exchanged: then this run
        does not pass through it.

        Args:
            pooled: this prompt's own pooled prediction there.
        """
        point = self.point
        if point is not None and point.deeper and self.route.captures and not self.spec.diversity:
            depth = point.depth + 1
            self.captured.append(
                CapturedState(
                    point.latent, point.log_snr, point.timestep, point.skip, pooled.copy(), depth, point.approximated
                )
            )

    def goes_deeper(self, value: float, pooled: NDArray[np.float16], pipeline: Pipeline) -> bool:
        """Enter the deepest state of the point's run that the gate's value allows and that fits this job, if any.

        Args:
            value: of the gate, at the entered point.
            pooled: this prompt's own pooled prediction there.
            pipeline: gives the schedule.
        """
        point, resumed = self.point, self.resumed
        if point is None:
            return False
        for number, state in enumerate(point.deeper):
            if not passes(value, state.max_divergence):
                continue
            route = self._route_from(state, pipeline)
            if route is not None:
                self.discard()
                self._enter(route, torch.tensor(state.latent).to(self.latent), point, resumed)
                self.deeper = number
                self.keep_judged(pooled)
                return True
        return False

    def discard(self) -> None:
        """Count the steps of this attempt, the one just evaluated included, as thrown away."""
        self.wasted += bisect_right(self.route.starts, self.index)

    def capture(self, pooled: NDArray[np.float16]) -> None:
        """Keep the state before this step (call before `advance`).

        Args:
            pooled: the pooled prediction of the clean latent at it.
        """
        self.captured.append(
            CapturedState(
                latent=self.latent.half().cpu().numpy(),
                log_snr=self.route.levels[self.index].log_snr,
                timestep=self.route.times[self.index],
                skip=self.route.captures[self.index],
                prediction=pooled.copy(),
                depth=self._depth,
                approximated=self._approximated(),
            )
        )

    @property
    def _depth(self) -> int:
        """How many resumes lie between the latent and pure noise."""
        return 0 if self.point is None else self.point.depth + 1

    def _approximated(self) -> bool:
        """Tell whether features were reused before the latent, in this run or in those it descends from."""
        source = self.deeper_point or self.point
        inherited = source is not None and source.approximated
        return inherited or self.caching.approximated

    @property
    def deeper_point(self) -> ResumePoint | None:
        """The state gone on from, where it is another than the one judged at."""
        return None if self.point is None or self.deeper is None else self.point.deeper[self.deeper]

    def update(self) -> Update:
        """Return the coming step of this row's solver."""
        now, after = self.route.levels[self.index : self.index + 2]
        return plan_step(self.solver, self.memory, now, after, len(self.route.times) - self.index)

    def fresh_noise(self) -> Tensor | None:
        """Return this step's own unit noise [C, h, w], a pure function of seed and step; None if it needs none."""
        if not self.solver.random:
            return None
        return torch.randn(self.latent.shape, generator=self.generator()).to(self.latent.device)

    def generator(self) -> torch.Generator:
        """Return the source of this step's noise, equal on all devices."""
        step = self.route.skipped + self.steps_done
        mixed = np.random.SeedSequence([self.spec.seed, step]).generate_state(1, np.uint64)
        return torch.Generator("cpu").manual_seed(int(mixed[0]) >> 1)

    def advance(self, latent: Tensor, corrected: Tensor, denoised: Tensor, update: Update) -> None:
        """Take over the stepped latent and remember what the solver needs of this step."""
        self.memory.remember(self.solver, self.route.levels[self.index], denoised, corrected, update.order)
        self.latent, self.denoised = latent, denoised
        self.index += 1

    def charge(self, seconds: float) -> None:
        """Book this row's share of one network evaluation."""
        self.denoise_seconds += seconds
        self.evaluations += 1

    def note_tick(self, seconds: float, pixels: int) -> None:
        """Book a joint step it took part in: how long it took, and how much it worked on."""
        self.ticks += 1
        self.tick_seconds += seconds
        self.tick_pixels += pixels

    def progress(self) -> Progress:
        """Describe where the job stands."""
        skipped = self.route.skipped
        return Progress(
            job_id=self.spec.job_id,
            step=skipped + self.steps_done,
            steps=self.spec.steps,
            first_step=skipped,
            denoise_seconds=self.denoise_seconds,
            encode_seconds=self.encode_seconds,
        )

    def wants_preview(self) -> bool:
        """Whether the step just made is one to show."""
        every = self.spec.preview_every
        return every > 0 and not self.done and (self.route.skipped + self.steps_done) % every == 0

    def result(self, image: ImageArray) -> JobResult:
        """Close the accounts."""
        entry: Entry = "exact" if self.route.exact else "first-order restart"
        steps_run = self.spec.steps - self.route.skipped + self.wasted
        return JobResult(
            job_id=self.spec.job_id,
            image=image if self.spec.reference is None else self.spec.reference.kept(image),
            resumed=self.resumed,
            deeper=self.deeper,
            steps=self.spec.steps,
            skipped=self.route.skipped,
            wasted=self.wasted,
            divergences=tuple(self.divergences),
            captured=tuple(self.captured),
            queue_seconds=self.queue_seconds,
            encode_seconds=self.encode_seconds,
            denoise_seconds=self.denoise_seconds,
            step_seconds=self.denoise_seconds / max(steps_run, 1),
            decode_seconds=self.decode_seconds,
            extra_evaluations=self.evaluations - steps_run,
            entry=None if self.resumed is None else entry,
            features=self.caching.report(),
            final=CleanLatent(self.latent.half().cpu().numpy(), self._depth, self._approximated()),
            isolated=not self.joined,
            diversity=self.spec.diversity if self.exchanged else 0.0,
            tick_seconds=self.tick_seconds / max(self.ticks, 1),
            tick_pixels=self.tick_pixels / max(self.ticks, 1),
            begin=self.spec.begin,
        )
