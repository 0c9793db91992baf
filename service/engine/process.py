"""The engine in a child process of its own, supervised: it may die, requests may not."""

import asyncio
import contextlib
import itertools
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from service.engine.base import EngineStartError, JobResult, ModelInfo
from service.engine.config import EngineConfig
from service.engine.front import Front, Ticket
from service.engine.link import ChildLink
from service.engine.messages import Command, Ready, Refused, Report, Stop, Submit, Ticked

logger = logging.getLogger(__name__)

# A job that was running each of the three times the engine died is taken for the cause.
DEATHS_ALLOWED = 3
# Clients wait for so many attempts to start another engine process; the attempts go on after that.
STARTS_AWAITED = 3
BACKOFF_SECONDS = 0.1
BACKOFF_LIMIT_SECONDS = 10.0
STOP_SECONDS = 5.0


class ProcessEngine(Front):
    """Runs jobs in a supervised child process (the service's default).

    When the child dies, it is started again with growing pauses and every unfinished job is submitted again from its
    spec: same seed, same picture, some seconds later. The event loop's thread must outlive the engine.

    Args:
        config: what to run and where.
    """

    def __init__(self, config: EngineConfig) -> None:
        super().__init__(config)
        self._link: ChildLink | None = None
        self._loading: asyncio.Future[ModelInfo] | None = None
        self._reviver: asyncio.Task[None] | None = None
        self._generation = 0
        self._failures = 0
        self._gone = False
        self._stopping = False
        self._suspect: Ticket | None = None
        self._past_sizes: Counter[int] = Counter()
        self._past_evaluations: Counter[str] = Counter()

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._link.pid if self._link is not None else None

    async def start(self) -> None:
        """Start the child and wait until it has loaded the model; raises EngineStartError with one clear line."""
        await self._launch()

    async def _launch(self) -> None:
        """Start a child, wait until it is ready and give it all unfinished jobs."""
        owner = asyncio.get_running_loop()
        self._generation += 1
        self._loading = owner.create_future()
        receive = partial(_tell, owner, self._receive, self._generation)
        lost = partial(_tell, owner, self._lost, self._generation)
        self._gone = False
        try:
            self._link = ChildLink(self._config, receive, lost)
            self._info = await self._loading
            if self._gone:
                raise EngineStartError("the engine process ended as soon as it was ready")
        except OSError as error:
            raise EngineStartError(f"cannot start the engine process: {error.strerror}") from error
        except BaseException:
            await self._reap()
            raise
        self._stats.ready = True
        self._resubmit()

    def _receive(self, generation: int, report: Report) -> None:
        if generation != self._generation or self._loading is None:
            return
        match report:
            case Ready(info) if not self._loading.done():
                self._loading.set_result(info)
            case Refused(message) if not self._loading.done():
                self._loading.set_exception(EngineStartError(message))
            case Ticked(events, stats):
                self._stats = replace(
                    stats,
                    restarts=self._stats.restarts,
                    batch_sizes=dict(self._past_sizes + Counter(stats.batch_sizes)),
                    feature_evaluations=dict(self._past_evaluations + Counter(stats.feature_evaluations)),
                )
                if any(isinstance(event, JobResult) for event in events):
                    self._failures = 0
                self._deliver(report)

    def _lost(self, generation: int) -> None:
        """The child has gone: blame what was running, then bring up another."""
        if generation != self._generation or self._stopping or self._loading is None:
            return
        if not self._loading.done():
            self._loading.set_exception(EngineStartError("the engine process ended while it loaded the model"))
            return
        if not self._stats.ready:
            self._gone = True
            return
        logger.error("the engine process ended; starting another for %d unfinished jobs", len(self._tickets))
        self._past_sizes = Counter(self._stats.batch_sizes)
        self._past_evaluations = Counter(self._stats.feature_evaluations)
        restarts = self._stats.restarts + 1
        self._stats = replace(self._stats, active=0, feature_bytes=0, ready=False, restarts=restarts)
        self._blame()
        self._stats.waiting = len(self._tickets)
        self._reviver = asyncio.get_running_loop().create_task(self._revive())

    def _blame(self) -> None:
        """Count the death against the jobs that may have caused it; give up one that was there each time.

        Any job the engine was given may have been running or on its way in. While a suspect is being tried it runs
        alone, and the death is its own.
        """
        given = [ticket for ticket in self._tickets.values() if ticket.posted]
        blamed, self._suspect = [self._suspect] if self._suspect is not None else given, None
        for ticket in blamed:
            ticket.deaths += 1
            if ticket.deaths >= DEATHS_ALLOWED:
                self._fail(ticket, "engine-lost", "the engine died repeatedly while it worked on this picture")

    def _resubmit(self) -> None:
        """Give a new child all unfinished jobs, but of those that saw two deaths only one at a time, and alone."""
        for ticket in self._tickets.values():
            ticket.posted = False
        self._feed()

    def _feed(self) -> None:
        """Let the next suspect run alone, or without suspects everybody: innocents thus outlive a killer."""
        if not self._stats.ready or self._suspect is not None:
            return
        suspects = (ticket for ticket in self._tickets.values() if ticket.deaths == DEATHS_ALLOWED - 1)
        suspect = next(suspects, None)
        for ticket in [suspect] if suspect is not None else list(self._tickets.values()):
            if not ticket.posted:
                self._post(Submit(ticket.spec, ticket.submitted))
        self._suspect = suspect

    def _remove(self, ticket: Ticket) -> None:
        super()._remove(ticket)
        if ticket is self._suspect:
            self._suspect = None
            self._feed()

    async def _revive(self) -> None:
        await self._reap()
        for starts in itertools.count(1):
            await asyncio.sleep(min(BACKOFF_SECONDS * 2**self._failures, BACKOFF_LIMIT_SECONDS))
            self._failures += 1
            try:
                await self._launch()
            except EngineStartError as error:
                logger.error("the engine does not start again: %s", error)
                if starts >= STARTS_AWAITED:
                    self._fail_all("engine-lost", "the engine does not start")
            else:
                return

    async def _reap(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await asyncio.to_thread(link.end)

    def _post(self, command: Command) -> None:
        # While there is no child nothing is lost: its successor is given every ticket there is by then. Nor while a
        # suspect is being tried: what comes in meanwhile follows it.
        if self._link is None or not self._stats.ready or (isinstance(command, Submit) and self._suspect is not None):
            return
        if isinstance(command, Submit):
            self._tickets[command.spec.job_id].posted = True
        self._link.post(command)

    async def _shut_down(self) -> None:
        self._stopping = True
        if self._reviver is not None:
            self._reviver.cancel()
            await asyncio.wait([self._reviver])
        if self._link is not None:
            self._link.post(Stop())
            link, self._link = self._link, None
            await asyncio.to_thread(link.end, STOP_SECONDS)


def _tell(owner: asyncio.AbstractEventLoop, function: Callable[..., None], *arguments: object) -> None:
    """Call on the event loop's thread; an event loop that has closed no longer listens."""
    with contextlib.suppress(RuntimeError):
        owner.call_soon_threadsafe(function, *arguments)
