"""Running totals since the start, for the page and `/v1/stats`."""

from dataclasses import dataclass, field

from service.engine.base import JobResult
from service.types import Verdict, VerdictKind
from service.verdicts import saved_by_features


@dataclass
class Totals:
    """Sums over all answered pictures, and the device time of all there were.

    Attributes:
        verdicts: pictures per verdict.
        steps: steps asked for.
        skipped: steps not run thanks to the cache.
        wasted: steps run and thrown away.
        saved_gpu_seconds: net device time saved by the cache.
        saved_feature_seconds: device time feature caching saved on the steps that were run.
        gpu_seconds: device time of pictures, of those too that were given up, or drawn and not shown. Replays and
            audits are no part of it.
    """

    verdicts: dict[VerdictKind, int] = field(default_factory=lambda: dict.fromkeys(VerdictKind, 0))
    steps: int = 0
    skipped: int = 0
    wasted: int = 0
    saved_gpu_seconds: float = 0.0
    saved_feature_seconds: float = 0.0
    gpu_seconds: float = 0.0
    _step_seconds: float = 0.0
    _measured: int = 0

    @property
    def step_seconds(self) -> float:
        """Mean device time of one step of one picture; 0 until something ran."""
        return self._step_seconds / self._measured if self._measured else 0.0

    def note_run(self, result: JobResult) -> None:
        """Learn from a finished run."""
        self._step_seconds += result.step_seconds
        self._measured += 1
        self.saved_feature_seconds += saved_by_features(result)

    def note_verdict(self, verdict: Verdict) -> None:
        """Count an answered picture."""
        self.verdicts[verdict.kind] += 1
        self.steps += verdict.steps
        self.skipped += verdict.skipped
        self.wasted += verdict.wasted
        self.saved_gpu_seconds += verdict.saved_gpu_seconds
