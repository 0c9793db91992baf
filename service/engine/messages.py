"""What the two sides of an engine say to each other; knowing it loads neither a model's libraries nor the loop."""

from dataclasses import dataclass

from service.engine.base import EngineStats, JobEvent, JobSpec, ModelInfo
from service.engine.config import EngineConfig


@dataclass(frozen=True, slots=True)
class Setup:
    """The first message to an engine process: what to load, and who must be its parent."""

    config: EngineConfig
    parent: int


@dataclass(frozen=True, slots=True)
class Submit:
    """Run this job; `submitted` is time.monotonic() when the client asked (one clock for all processes)."""

    spec: JobSpec
    submitted: float


@dataclass(frozen=True, slots=True)
class Cancel:
    """Drop this job before the next step; no event follows."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """Leave the loop, whatever is running."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is loaded and the loop runs."""

    info: ModelInfo


@dataclass(frozen=True, slots=True)
class Refused:
    """The model cannot be loaded; one clear line says why."""

    message: str


@dataclass(frozen=True, slots=True)
class Ticked:
    """What one tick brought."""

    events: list[JobEvent]
    stats: EngineStats


Command = Submit | Cancel | Stop
Report = Ready | Refused | Ticked
