"""What pictures take on this device: learned from every finished run."""

from collections.abc import Hashable
from dataclasses import dataclass

from policies.admission import Work
from policies.admission.pace import PaceMeter, StepPace
from service.engine.admission import step_pixels
from service.engine.base import JobResult, JobSpec, ModelInfo

# Weight of the newest run in running means.
SMOOTHING = 0.1


@dataclass(slots=True)
class _Mean:
    """A running mean that forgets; `value` is 0 until something was noted."""

    value: float = 0.0

    def note(self, value: float) -> None:
        self.value += (value - self.value) * (SMOOTHING if self.value else 1.0)


class RunPace:
    """Predicts what a job takes, in steps, in device time and in decoding time.

    Args:
        info: the served model.
    """

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._meter = PaceMeter()
        self._evaluations: dict[Hashable, _Mean] = {}
        self._encode = _Mean()
        self._decode = _Mean()
        self._device = _Mean()

    @property
    def step(self) -> StepPace:
        """How long a joint step takes."""
        return self._meter.pace

    def work(self, spec: JobSpec, *, uncached: bool = False) -> Work:
        """Return what a job takes; `uncached`: what it would without a head start."""
        steps = spec.steps - spec.begin if uncached else spec.foreseen_steps
        known = self._evaluations.get(_kind(spec, resumes=bool(spec.resume) and not uncached))
        return Work(
            steps=steps * (known.value if known else 1.0),
            pixels=step_pixels(spec, self._info),
            decode_seconds=self._coding(spec) * spec.width * spec.height,
            group=spec.group,
            tenant=spec.tenant,
            weight=spec.weight,
        )

    def _coding(self, spec: JobSpec) -> float:
        """Return the device time a pixel takes outside the steps, that of a picture to draw over included."""
        return self._decode.value + (0.0 if spec.reference is None else self._encode.value)

    def device_seconds(self, work: Work) -> float:
        """Return the device time booked for a job."""
        return work.steps * work.pixels * self._device.value + work.decode_seconds

    def learn(self, spec: JobSpec, result: JobResult) -> None:
        """Learn from a finished run."""
        self._meter.observe(result.tick_pixels, result.tick_seconds)
        kind = _kind(spec, resumes=bool(spec.resume))
        # A refused head start and a solver that looks twice take more than the steps foreseen.
        self._evaluations.setdefault(kind, _Mean()).note(result.evaluations / max(1, spec.foreseen_steps))
        pixels = spec.width * spec.height
        self._decode.note(result.decode_seconds / pixels)
        if spec.reference is not None:
            self._encode.note(result.encode_seconds / pixels)
        rows = max(1, result.evaluations) * step_pixels(spec, self._info)
        self._device.note(result.denoise_seconds / rows)


def _kind(spec: JobSpec, *, resumes: bool) -> Hashable:
    features = "" if spec.features is None else spec.features.policy
    return spec.solver, features, resumes
