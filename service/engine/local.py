"""The engine in this process: the loop on a thread of its own, an asyncio front."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable

import torch

from service.engine.base import Pipeline
from service.engine.config import EngineConfig
from service.engine.front import Front
from service.engine.loading import load_configured
from service.engine.loop import StepLoop
from service.engine.messages import Command, Report, Stop, Ticked
from service.engine.worker import Inbox, make_loop, serve
from service.logs import fields_of

logger = logging.getLogger(__name__)


class LocalEngine(Front):
    """Runs jobs on a thread of this process (tests, benchmarks, calibration).

    Args:
        config: what to run and where; `threads`, if set, holds for all of torch in this process.
        load: makes the pipeline; called off the event loop.
    """

    def __init__(self, config: EngineConfig, load: Callable[[], Pipeline] | None = None) -> None:
        super().__init__(config)
        self._load = load or (lambda: load_configured(config))
        self._inbox: Inbox = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def start(self) -> None:
        """Load the model and start the loop's thread; raises EngineStartError with one clear line."""
        if self._config.threads > 0:
            torch.set_num_threads(self._config.threads)
        pipeline = await asyncio.to_thread(self._load)
        owner = asyncio.get_running_loop()

        def send(report: Report) -> None:
            owner.call_soon_threadsafe(self._receive, report)

        arguments = (make_loop(pipeline, self._config), send, owner)
        self._thread = threading.Thread(target=self._work, args=arguments, name="engine", daemon=True)
        self._thread.start()
        self._info = pipeline.info
        self._stats.ready = True

    def _work(self, loop: StepLoop, send: Callable[[Report], None], owner: asyncio.AbstractEventLoop) -> None:
        try:
            serve(loop, self._inbox, send)
        except Exception as error:
            if owner.is_closed():
                return
            logger.error("the engine's loop broke", extra=fields_of(error))
            owner.call_soon_threadsafe(self._broke)

    def _receive(self, report: Report) -> None:
        if isinstance(report, Ticked):
            self._stats = report.stats
            self._deliver(report)

    def _broke(self) -> None:
        self._closing = True
        self._stats.ready = False
        self._fail_all("internal", "the engine broke")

    def _post(self, command: Command) -> None:
        self._inbox.put(command)

    async def _shut_down(self) -> None:
        if self._thread is not None:
            self._inbox.put(Stop())
            await asyncio.to_thread(self._thread.join)
            self._thread = None
