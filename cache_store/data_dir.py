"""The data folder: one service owns it at a time."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

from cache_store.config import StoreConfigError


class FileLock:
    """An advisory lock that ends with the last process holding its descriptor, however that process ends."""

    def __init__(self, path: Path) -> None:
        """Open (or make) the lock file at `path` without taking the lock."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @property
    def fd(self) -> int:
        """The descriptor; a child that inherits it holds the lock as well."""
        return self._fd

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; write this process's id into it."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, str(os.getpid()).encode(), 0)
        return True

    def holder(self) -> str:
        """Return the process id its holder wrote, or "?"."""
        return os.pread(self._fd, 32, 0).decode("ascii", "replace") or "?"

    def close(self) -> None:
        """Let go of the descriptor; calling it twice does nothing."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class RunMarker:
    """A file that is there while a service runs, and stays when it crashes."""

    def __init__(self, data_dir: Path) -> None:
        """Keep it in `data_dir`."""
        self._path = data_dir / "running"

    def set(self) -> bool:
        """Make the file; return whether it was there, so that the service before did not end well."""
        crashed = self._path.exists()
        with suppress(OSError):
            self._path.touch(mode=0o600)
        return crashed

    def unset(self) -> None:
        """Remove the file."""
        with suppress(OSError):
            self._path.unlink(missing_ok=True)


def claim(data_dir: Path) -> FileLock:
    """Make `data_dir` if need be and take it for this service.

    Raises:
        StoreConfigError: it cannot be written, or another service uses it.
    """
    try:
        data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = FileLock(data_dir / "service.lock")
    except OSError as error:
        raise StoreConfigError(f"data_dir {data_dir} is not writable: {error.strerror}") from error
    if not lock.try_acquire():
        holder = lock.holder()
        lock.close()
        raise StoreConfigError(f"data_dir {data_dir} is in use by another Headstart service (process {holder})")
    return lock
