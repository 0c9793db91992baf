"""The asyncio side both engines share: tickets, waiting clients, cancellation, an orderly end."""

import abc
import asyncio
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace

from service.engine.base import MESSAGES, EngineStats, JobEvent, JobFailed, JobResult, JobSpec, ModelInfo, Progress
from service.engine.config import EngineConfig
from service.engine.messages import Cancel, Command, Submit, Ticked

# An engine that runs gives a late job up itself, at the end of the step it is at.
DEADLINE_GRACE_SECONDS = 1.0


@dataclass
class Ticket:
    """A client waiting for its job.

    Attributes:
        spec: everything needed to run the job again.
        submitted: time.monotonic() when the client asked.
        deaths: how often the engine died while this job may have been running.
        posted: whether the engine that runs now was given the job.
    """

    spec: JobSpec
    submitted: float = field(default_factory=time.monotonic)
    events: asyncio.Queue[JobEvent] = field(default_factory=asyncio.Queue)
    deaths: int = 0
    posted: bool = False


class Front(abc.ABC):
    """Bookkeeping of running jobs; belongs to the event loop that called `start`.

    Args:
        config: what to run and where.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._config = config
        self._tickets: dict[str, Ticket] = {}
        self._info: ModelInfo | None = None
        self._stats = EngineStats()
        self._closing = False
        self._empty = asyncio.Event()
        self._empty.set()

    @property
    def info(self) -> ModelInfo:
        """The loaded model.

        Raises:
            RuntimeError: the engine has not been started.
        """
        if self._info is None:
            raise RuntimeError("the engine has not been started")
        return self._info

    @property
    def stats(self) -> EngineStats:
        """A snapshot of counters."""
        return replace(self._stats, batch_sizes=dict(self._stats.batch_sizes))

    @abc.abstractmethod
    async def start(self) -> None:
        """Load the model and start the loop; raises EngineStartError with one clear line."""

    @abc.abstractmethod
    def _post(self, command: Command) -> None:
        """Hand a command to the loop; must not block."""

    @abc.abstractmethod
    async def _shut_down(self) -> None:
        """End the loop and free what it held."""

    async def run(self, spec: JobSpec) -> AsyncGenerator[JobEvent, None]:
        """Run a job: Progress events, then exactly one JobResult or JobFailed.

        Closing the generator cancels the job at the next step.

        Args:
            spec: the job.

        Yields:
            Progress events, then one JobResult or JobFailed.

        Raises:
            ValueError: a job of this id is still running.
            RuntimeError: the engine has not been started.
        """
        if self._closing:
            yield JobFailed(spec.job_id, "cancelled", "the engine is stopping")
            return
        ticket = self._open(spec)
        try:
            while True:
                event = await self._next_event(ticket)
                yield event
                if not isinstance(event, Progress):
                    return
        finally:
            self._leave(ticket)

    async def _next_event(self, ticket: Ticket) -> JobEvent:
        """Wait for the job's next event; its deadline holds even while there is no engine to watch it."""
        deadline = ticket.spec.deadline
        if deadline is None:
            return await ticket.events.get()
        patience = max(0.0, deadline - time.monotonic()) + DEADLINE_GRACE_SECONDS
        try:
            return await asyncio.wait_for(ticket.events.get(), patience)
        except TimeoutError:
            return JobFailed(ticket.spec.job_id, "deadline", MESSAGES["deadline"])

    async def close(self, *, grace_seconds: float = 0.0) -> None:
        """Stop: wait up to `grace_seconds` for running jobs, then cancel the rest."""
        self._closing = True
        try:
            await asyncio.wait_for(self._empty.wait(), grace_seconds)
        except TimeoutError:
            self._fail_all("cancelled", "the engine is stopping")
        await self._shut_down()
        self._stats.ready = False

    def _open(self, spec: JobSpec) -> Ticket:
        if self._info is None:
            raise RuntimeError("the engine has not been started")
        if spec.job_id in self._tickets:
            raise ValueError(f"job {spec.job_id} is already running")
        ticket = self._tickets[spec.job_id] = Ticket(spec)
        self._empty.clear()
        self._post(Submit(spec, ticket.submitted))
        return ticket

    def _leave(self, ticket: Ticket) -> None:
        """Cancel the ticket's job unless it is over; a later job may use the same id."""
        if self._tickets.get(ticket.spec.job_id) is ticket:
            self._remove(ticket)
            self._post(Cancel(ticket.spec.job_id))

    def _remove(self, ticket: Ticket) -> None:
        del self._tickets[ticket.spec.job_id]
        if not self._tickets:
            self._empty.set()

    def _deliver(self, ticked: Ticked) -> None:
        """Hand a tick's events to the clients that are still there."""
        for event in ticked.events:
            ticket = self._tickets.get(event.job_id)
            if ticket is None:
                continue
            if isinstance(event, JobResult):
                event = replace(event, restarts=ticket.deaths)
            self._hand_over(ticket, event)

    def _hand_over(self, ticket: Ticket, event: JobEvent) -> None:
        if not isinstance(event, Progress):
            self._remove(ticket)
        ticket.events.put_nowait(event)

    def _fail(self, ticket: Ticket, code: str, message: str) -> None:
        self._hand_over(ticket, JobFailed(ticket.spec.job_id, code, message))

    def _fail_all(self, code: str, message: str) -> None:
        for ticket in list(self._tickets.values()):
            self._fail(ticket, code, message)
