"""Three ways to keep the same bytes: our store, plain files, LMDB; each writes entries of given states."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import lmdb
import psutil

from benchmarks import crash_world as world
from benchmarks.crash_mend import until
from cache_store import CacheStore, NoiseState, StoreConfig, StoredImage
from cache_store.records import level_of
from cache_store.states import encode_state

GIB = 1024**3
STORE_QUEUE = 64
PICTURE = StoredImage(b"", world.SIGNATURE.width, world.SIGNATURE.height)
Entry = tuple[int, Sequence[NoiseState]]


class Backend(Protocol):
    """Writes entries, and says how many bytes its processes have given to the disk."""

    def write(self, entries: Sequence[Entry]) -> None:
        """Return when all are written, as durably as the backend does it."""

    def written_bytes(self) -> int:
        """Return the bytes sent to the block device so far."""

    def close(self) -> None:
        """End it."""


def sent_to_disk(*pids: int) -> int:
    """Return how many bytes these processes have caused to be sent to the disk."""
    return sum(psutil.Process(pid).io_counters().write_bytes for pid in pids)


def put_files(folder: Path, *, sync: bool) -> Callable[[Sequence[Entry]], None]:
    """Return what writes each state as a file of its own, whole or not at all, like the store's objects."""

    def write(entries: Sequence[Entry]) -> None:
        for number, states in entries:
            for state in states:
                _write_file(folder / f"{number:016x}.{level_of(state.log_snr)}", encode_state(number, state), sync)

    return write


def _write_file(path: Path, data: bytes, sync: bool) -> None:
    draft = path.with_suffix(path.suffix + "#")
    with draft.open("wb") as file:
        file.write(data)
        if sync:
            file.flush()
            os.fsync(file.fileno())
    draft.rename(path)


class Files:
    """Plain files.

    Args:
        folder: for them.
        sync: whether each is forced to the disk.
    """

    def __init__(self, folder: Path, *, sync: bool) -> None:
        folder.mkdir()
        self._write = put_files(folder, sync=sync)

    def write(self, entries: Sequence[Entry]) -> None:
        """See `Backend.write`."""
        self._write(entries)

    def written_bytes(self) -> int:
        """See `Backend.written_bytes`."""
        return sent_to_disk(os.getpid())

    def close(self) -> None:
        """See `Backend.close`."""


class Lmdb:
    """LMDB, one transaction per entry.

    Args:
        folder: for its file.
        sync: whether each transaction is forced to the disk.
    """

    def __init__(self, folder: Path, *, sync: bool) -> None:
        self._db = lmdb.open(str(folder), map_size=4 * GIB, sync=sync, metasync=sync)

    def write(self, entries: Sequence[Entry]) -> None:
        """See `Backend.write`."""
        for number, states in entries:
            with self._db.begin(write=True) as transaction:
                for state in states:
                    key = f"{number:016x}.{level_of(state.log_snr)}".encode()
                    transaction.put(key, encode_state(number, state))

    def written_bytes(self) -> int:
        """See `Backend.written_bytes`."""
        return sent_to_disk(os.getpid())

    def close(self) -> None:
        """See `Backend.close`."""
        self._db.close()


class Ours:
    """Our store: private Redis, objects in local files, write-behind kept full.

    Args:
        folder: its data folder.
        loop: runs it.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        config = StoreConfig(folder, byte_budget=8 * GIB, queue_size=STORE_QUEUE, timeout_seconds=30.0)
        self.store = loop.run_until_complete(CacheStore.open(config))

    def write(self, entries: Sequence[Entry]) -> None:
        """See `Backend.write`."""
        self._loop.run_until_complete(self._remember(entries))

    async def _remember(self, entries: Sequence[Entry]) -> None:
        for number, states in entries:
            await until(self._accepting)
            self.store.remember(replace(world.entry(number), entry_id=number), states, PICTURE)
        await self.store.flush()

    async def _accepting(self) -> bool:
        return self.store.accepting

    def written_bytes(self) -> int:
        """See `Backend.written_bytes`."""
        redis = [child.pid for child in psutil.Process().children() if child.name().startswith("redis-server")]
        return sent_to_disk(os.getpid(), *redis)

    def rewrite(self) -> None:
        """Have Redis write its log anew, as it does when the log has doubled."""
        self._loop.run_until_complete(self._rewrite())

    async def _rewrite(self) -> None:
        parts = self.store._parts
        async with parts.redis(60.0):
            await parts.link.call("BGREWRITEAOF")
            await until(self._rewritten)

    async def _rewritten(self) -> bool:
        state = await self.store._parts.link.call("INFO", "persistence")
        return not (state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"])

    def close(self) -> None:
        """See `Backend.close`."""
        self._loop.run_until_complete(self.store.close())
