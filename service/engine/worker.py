"""What runs a `StepLoop`: commands in, events out. The same code in a thread and in a child process."""

import queue
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from service.engine.base import EngineStats, JobEvent, JobSpec, ModelInfo, Pipeline
from service.engine.config import EngineConfig
from service.engine.loading import device_of
from service.engine.loop import StepLoop
from service.engine.peak import meter_of


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
Inbox = queue.SimpleQueue[Command]


def make_loop(pipeline: Pipeline, config: EngineConfig) -> StepLoop:
    """Return the loop of an engine over a loaded model."""
    device = device_of(config.device)
    return StepLoop(
        pipeline,
        max_batch=config.max_batch,
        max_pixels=config.max_pixels,
        meter=meter_of(device),
        max_loras=config.loras.limit,
        decode_beside=device.type != "cpu",
    )


def serve(loop: StepLoop, inbox: Inbox, send: Callable[[Report], None]) -> None:
    """Run the loop until a Stop arrives: take commands between ticks, sleep only when there is nothing to do.

    Args:
        loop: the loop; this function becomes its one owner.
        inbox: commands.
        send: takes a report after every tick.
    """
    while True:
        for command in _take(inbox, wait=loop.idle):
            match command:
                case Submit(spec, submitted):
                    loop.submit(spec, submitted)
                case Cancel(job_id):
                    loop.cancel(job_id)
                case Stop():
                    return
        events = loop.tick()
        send(Ticked(events, loop.stats))


def _take(inbox: Inbox, *, wait: bool) -> Iterator[Command]:
    """Yield the commands that are there; with `wait`, at least one."""
    if wait:
        yield inbox.get()
    while True:
        try:
            yield inbox.get_nowait()
        except queue.Empty:
            return
