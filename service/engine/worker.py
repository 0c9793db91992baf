"""What runs a `StepLoop`: commands in, events out. The same code in a thread and in a child process."""

import logging
import queue
from collections.abc import Callable, Iterator
from pathlib import Path

from policies.features.artefact import CalibrationShelf, digest_of
from service.engine.base import Pipeline
from service.engine.config import EngineConfig
from service.engine.features.caches import NOWHERE, FeatureCaches
from service.engine.loading import device_of
from service.engine.loop import StepLoop
from service.engine.messages import Cancel, Command, Report, Stop, Submit, Ticked
from service.engine.peak import meter_of

logger = logging.getLogger(__name__)

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
        caches=FeatureCaches(pipeline, CalibrationShelf(_calibrated(config)), config.feature_bytes),
    )


def _calibrated(config: EngineConfig) -> Path:
    """Return the folder of artefacts, unless it has changed since the service named pictures by it."""
    folder = config.features or NOWHERE
    if digest_of(config.features) == config.calibration:
        return folder
    logger.warning("what feature caching was calibrated to has changed: restart the service to use it")
    return NOWHERE


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
