"""The connection to Redis: bounded calls, a circuit breaker, reconnection in the background."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from redis.asyncio import Connection, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import RedisError, ResponseError

from cache_store.complaints import Complaints
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
Argument = str | bytes | int | float
_TRIP_AFTER_TIMEOUTS = 3
_HEARTBEAT_SECONDS = 1.0
_FIRST_BACKOFF = 0.05
_LAST_BACKOFF = 1.0
_PING_SECONDS = 2.0
# Redis does one thing at a time: more connections would not make it faster, and each costs a descriptor.
_MOST_CALLS = 64
# The client's own bound fails instead of waiting.
_NO_BOUND = 2**31


def connect(url: str | None, socket_path: str | None) -> Redis:
    """Return a client that never retries by itself: the link decides when to try again.

    Raises:
        ValueError: `url` is not a Redis URL.
    """
    retry = Retry(NoBackoff(), 0)
    options: dict[str, Any] = {"protocol": 2, "retry": retry, "socket_timeout": None, "max_connections": _NO_BOUND}
    if url is not None:
        return Redis.from_url(url, socket_connect_timeout=_PING_SECONDS, **options)
    return Redis(unix_socket_path=socket_path, **options)


class RedisLink:
    """Talks to Redis while it is there, fails at once while it is not.

    The client replaces a broken connection by itself, so each new one must be to the same run of Redis: one that
    was started anew may have forgotten the last second, ids that it gave out among it.

    A lost connection, or three timeouts in a row, opens the circuit: every call then raises
    `CacheUnavailable` without waiting, until a background task has reached Redis again and `prepare` (which
    rebuilds what this process keeps in memory) has succeeded. Calls beyond as many as Redis is sent at once wait
    their turn; that one has waited too long opens nothing as long as Redis answers others.
    """

    def __init__(
        self, client: Redis, *, prepare: Callable[[], Awaitable[None]], check: Callable[[], Awaitable[None]]
    ) -> None:
        """Wrap `client`.

        Args:
            client: one that does not retry by itself.
            prepare: runs after each (re)connection, before anybody else may call.
            check: runs every second; raises RedisError when the connection is good for nothing.
        """
        self._client = client
        self._execute: Callable[..., Awaitable[Any]] = client.execute_command
        client.connection_pool.connection_kwargs["redis_connect_func"] = self._greet
        self._run_id = b""
        self._prepare = prepare
        self._check = check
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._down.set()
        self._down_since = time.monotonic()
        self._timeouts = 0
        self._replies = 0
        self._turn = asyncio.Semaphore(_MOST_CALLS)
        self._keeper: asyncio.Task[None] | None = None
        # While its disk is full, Redis refuses every single write.
        self._complaints = Complaints(log)

    @property
    def available(self) -> bool:
        """Whether the circuit is closed."""
        return self._up.is_set()

    @property
    def down_seconds(self) -> float:
        """How long it has been unavailable, 0 while it is available."""
        return 0.0 if self.available else time.monotonic() - self._down_since

    def start(self) -> None:
        """Begin to connect in the background."""
        self._keeper = asyncio.create_task(self._keep(), name="redis-link")

    async def close(self) -> None:
        """Stop reconnecting and close all connections."""
        self._up.clear()
        if self._keeper:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        await self._client.aclose()

    async def wait_available(self, seconds: float) -> bool:
        """Wait up to `seconds` for the circuit to close; return whether it is."""
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
        except TimeoutError:
            return False
        return True

    @asynccontextmanager
    async def guard(self, deadline: float) -> AsyncIterator[None]:
        """Bound what is inside by `deadline` (loop time) and turn every fault into `CacheUnavailable`."""
        if not self.available:
            raise CacheUnavailable("redis is away")
        replies = self._replies
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except CacheUnavailable:
            raise
        except TimeoutError as error:
            self._timeouts += self._replies == replies
            if self._timeouts >= _TRIP_AFTER_TIMEOUTS:
                self._trip("it does not answer in time")
            raise CacheUnavailable("redis did not answer in time") from error
        except Exception as error:
            self._judge(error)
            raise CacheUnavailable(f"catalogue fault: {type(error).__name__}") from error

    async def call(self, *command: Argument) -> Any:
        """Run one command; only inside `guard` or `prepare`."""
        async with self._turn:
            return self._answered(await self._execute(*command))

    async def batch(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Run several commands in one round trip (not atomic); only inside `guard` or `prepare`."""
        if not commands:
            return []
        async with self._turn, self._client.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            return self._answered(list(await pipe.execute()))

    async def script(self, source: str, *arguments: Argument) -> Any:
        """Run a Lua script, atomically; only inside `guard` or `prepare`."""
        return await self.call("EVAL", source, 0, *arguments)

    def _answered(self, reply: T) -> T:
        self._timeouts = 0
        self._replies += 1
        return reply

    def renew(self, why: str) -> None:
        """Treat the connection as lost, so that everything is prepared again."""
        self._trip(why)

    def _judge(self, error: Exception) -> None:
        if isinstance(error, ResponseError):
            self._complaints.note(f"redis refused a command: {_shown(error)}")
        elif isinstance(error, RedisError | OSError):
            self._trip(type(error).__name__)
        else:
            self._complaints.note(f"the catalogue holds something unreadable: {type(error).__name__}")

    def _trip(self, why: str) -> None:
        if self.available:
            log.warning("the cache is unavailable: %s", why)
            self._down_since = time.monotonic()
            self._up.clear()
            self._down.set()

    async def _greet(self, connection: Connection) -> None:
        """Make a new connection ready. Raises ConnectionLost when it leads to another run of Redis."""
        await connection.on_connect()
        await connection.send_command("INFO", "server")
        info: bytes = await connection.read_response(disable_decoding=True)
        run_id = info.partition(b"run_id:")[2].partition(b"\r\n")[0]
        if self._run_id and run_id != self._run_id:
            raise ConnectionLost("redis was started again")
        self._run_id = run_id

    async def _keep(self) -> None:
        backoff = _FIRST_BACKOFF
        while True:
            if self.available:
                await self._watch()
                backoff = _FIRST_BACKOFF
            elif not await self._reconnect():
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _LAST_BACKOFF)

    async def _watch(self) -> None:
        """Return when the circuit opens; a silent death is noticed by a heartbeat."""
        while self.available:
            try:
                async with asyncio.timeout(_HEARTBEAT_SECONDS):
                    await self._down.wait()
            except TimeoutError:
                await self._beat()

    async def _beat(self) -> None:
        self._complaints.tell()
        try:
            async with asyncio.timeout(_PING_SECONDS):
                await self._check()
        except (TimeoutError, RedisError, OSError) as error:
            self._trip(type(error).__name__)

    async def _reconnect(self) -> bool:
        try:
            await self._client.connection_pool.disconnect()
            self._run_id = b""
            async with asyncio.timeout(_PING_SECONDS):
                await self._execute("PING")
            await self._prepare()
        except Exception as error:
            # First connection attempts meet a server that is still starting: not worth a warning.
            log.debug("redis is not there yet: %s", type(error).__name__)
            return False
        self._timeouts = 0
        self._down.clear()
        self._up.set()
        log.info("the cache is available")
        return True


def _shown(error: ResponseError) -> str:
    """Return what Redis said: not to which command or script, and up to the first quotation.

    Commands and quotations may hold somebody's prompt; and what is said to all alike is told once.
    """
    said = str(error).rpartition("caused error: ")[2]
    for mark in (" script: ", "`", "\n"):
        said = said.split(mark)[0]
    return said[:160]
