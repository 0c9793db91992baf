"""Reports the end of jobs to URLs that clients named."""

import asyncio
import json
import logging
import ssl
import time
from datetime import UTC, datetime

from prometheus_client import Counter

from service.jobs.signing import signature
from service.jobs.state import JobState
from service.jobs.targets import Target, TargetError, Targets
from service.logs import fields_of
from service.tracing import current, stage

log = logging.getLogger(__name__)

DELAYS = (0.0, 2.0, 10.0, 60.0, 300.0)
"""Seconds before each attempt."""
_ATTEMPT_SECONDS = 10.0
_AT_ONCE = 8
_MOST_WAITING = 256
_GONE = 410
_MOST_LINE = 4096


class Postman:
    """Delivers reports in tasks of its own, some attempts each; a stop of the service ends them.

    Args:
        targets: where they may go.
        key: signs them.
        outcomes: counts them, by "delivered", "failed", "refused" and "dropped".
        delays: seconds before each attempt.
    """

    def __init__(
        self, targets: Targets, key: bytes, outcomes: Counter, *, delays: tuple[float, ...] = DELAYS
    ) -> None:
        self.targets = targets
        self._key = key
        self._outcomes = outcomes
        self._delays = delays
        self._room = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self._context = None if targets.empty else ssl.create_default_context()

    def report(self, state: JobState) -> None:
        """Report a job that has ended, if it has a webhook; never waits, never raises."""
        if state.webhook is None:
            return
        if len(self._tasks) >= _MOST_WAITING:
            self._outcomes.labels("dropped").inc()
            return
        task = asyncio.create_task(self._deliver(state.webhook, f"msg_{state.id}", _payload(state)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Give up what is not delivered."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _deliver(self, url: str, message_id: str, payload: bytes) -> None:
        with stage("webhook") as span:
            outcome = await self._try(url, message_id, payload)
            if outcome != "delivered":
                span.fail(outcome)
        self._outcomes.labels(outcome).inc()

    async def _try(self, url: str, message_id: str, payload: bytes) -> str:
        outcome = "failed"
        try:
            for delay in self._delays:
                await asyncio.sleep(delay)
                status = await self._attempt(url, message_id, payload)
                if 200 <= status < 300:
                    outcome = "delivered"
                if outcome == "delivered" or status == _GONE:
                    break
        except TargetError:
            outcome = "refused"
        except Exception as error:
            log.error("a webhook failed", extra=fields_of(error))
        return outcome

    async def _attempt(self, url: str, message_id: str, payload: bytes) -> int:
        """Return the status of one attempt, 0 without an answer. Raises TargetError."""
        target = self.targets.parse(url)  # the list may have changed since
        async with self._room:
            try:
                async with asyncio.timeout(_ATTEMPT_SECONDS):
                    # Resolved once: between a check and a connection of its own a name could change its address.
                    addresses = await self.targets.addresses(target)
                    return await self._post(target, addresses[0], self._head(target, message_id, payload) + payload)
            except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError):
                return 0

    def _head(self, target: Target, message_id: str, payload: bytes) -> bytes:
        now = int(time.time())
        lines = (
            f"POST {target.path} HTTP/1.1",
            f"Host: {target.authority}",
            "Content-Type: application/json",
            f"Content-Length: {len(payload)}",
            "User-Agent: headstart",
            "Connection: close",
            f"webhook-id: {message_id}",
            f"webhook-timestamp: {now}",
            f"webhook-signature: {signature(self._key, message_id, now, payload)}",
            *(f"{name}: {value}" for name, value in current().headers().items()),
        )
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    async def _post(self, target: Target, address: str, request: bytes) -> int:
        context = self._context if target.secure else None
        name = target.host if target.secure else None
        reader, writer = await asyncio.open_connection(
            address, target.port, ssl=context, server_hostname=name, limit=_MOST_LINE
        )
        try:
            writer.write(request)
            await writer.drain()
            line = await reader.readuntil(b"\r\n")
        finally:
            writer.close()
        version, _, rest = line.partition(b" ")
        code = rest[:3]
        return int(code) if version.startswith(b"HTTP/") and code.isdigit() else 0


def _payload(state: JobState) -> bytes:
    shown = {"id", "status", "created", "started", "finished", "result", "error"}
    body = {
        "type": f"job.{state.status.value}",
        "timestamp": datetime.fromtimestamp(state.finished or state.created, UTC).isoformat(),
        "data": {"object": "job", **state.model_dump(mode="json", include=shown)},
    }
    return json.dumps(body).encode()
