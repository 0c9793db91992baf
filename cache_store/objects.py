"""The object store: bytes under names, in a local folder or at any URL obstore takes."""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import obstore
from obstore.store import HTTPStore, LocalStore, from_url

from cache_store.config import StoreConfig, StoreConfigError
from cache_store.sealing import KeyFileError, Sealer, is_sealed, read_master_key
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)

ObjectKey = tuple[int, int | None]
"""(entry id, noise level) of a state, (entry id, None) of a picture."""

_NAME = re.compile(r"(?:states|images)/[0-9a-f]{2}/([0-9a-f]{16})\.(?:(-?[0-9]+)\.safetensors|png)")
_TRIP_AFTER = 3
_COOL_DOWN_SECONDS = 2.0


class Objects:
    """Reads, writes and lists objects; three faults in a row make it fail at once for two seconds.

    Faults of writing are counted apart: a full or read-only disk can still be read.

    Attributes:
        store_id: the catalogue's identity, once known; names its part of the object store, so that the objects
            of one catalogue are never taken for another's.
    """

    def __init__(self, config: StoreConfig) -> None:
        """Open the store `config` names.

        Raises:
            StoreConfigError: the URL is not one obstore takes, the local folder cannot be made, or the encryption key
                cannot be read.
        """
        self.store_id = ""
        self._sealer = _sealer(config)
        self._local: Path | None = None
        self._breakers = {writes: _Breaker() for writes in (False, True)}
        try:
            self._store = self._open(config)
        except Exception as error:
            raise StoreConfigError(f"object store cannot be opened: {str(error).splitlines()[0]}") from error

    def _open(self, config: StoreConfig) -> obstore.store.ObjectStore:
        if config.object_url is None:
            self._local = config.data_dir / "objects"
            self._local.mkdir(mode=0o700, parents=True, exist_ok=True)
            return LocalStore(self._local)
        if config.object_url.startswith("file://"):
            return LocalStore.from_url(config.object_url, mkdir=True)
        store = from_url(config.object_url)
        if isinstance(store, HTTPStore):
            raise ValueError("plain HTTP cannot hold objects; use file, s3, gs or az")
        return store

    def state_path(self, entry_id: int, level: int) -> str:
        """Return where a state lives."""
        return f"{self.store_id}/states/{entry_id & 0xFF:02x}/{entry_id:016x}.{level}.safetensors"

    def image_path(self, entry_id: int) -> str:
        """Return where a picture lives."""
        return f"{self.store_id}/images/{entry_id & 0xFF:02x}/{entry_id:016x}.png"

    def path_of(self, key: ObjectKey) -> str:
        """Return where a state or picture lives."""
        entry_id, level = key
        return self.image_path(entry_id) if level is None else self.state_path(entry_id, level)

    def key_of(self, path: str) -> ObjectKey | None:
        """Return whose object `path` is, None when it is none of this catalogue's."""
        found = _NAME.fullmatch(path.removeprefix(f"{self.store_id}/"))
        if found is None:
            return None
        key = int(found[1], 16), None if found[2] is None else int(found[2])
        return key if self.path_of(key) == path else None

    @asynccontextmanager
    async def guard(self, deadline: float, *, writes: bool = False) -> AsyncIterator[None]:
        """Bound what is inside by `deadline` (loop time) and turn every fault into `CacheUnavailable`."""
        breaker = self._breakers[writes]
        if time.monotonic() < breaker.closed_until:
            raise CacheUnavailable("the object store is away")
        try:
            async with asyncio.timeout_at(deadline):
                yield
            breaker.faults = 0
        except CacheUnavailable:
            raise
        except Exception as error:
            breaker.count(error)
            raise CacheUnavailable(f"object store fault: {type(error).__name__}") from error

    async def get(self, path: str) -> bytes | None:
        """Return an object's bytes, or None when there is no such object, or none that the key in force opens."""
        try:
            result = await obstore.get_async(self._store, path)
            data = bytes(await result.bytes_async())
        except FileNotFoundError:
            return None
        if self._sealer is None:
            return None if is_sealed(data) else data
        return await asyncio.to_thread(self._sealer.try_open, path, data)

    async def exists(self, path: str) -> bool:
        """Return whether there is such an object."""
        try:
            await obstore.head_async(self._store, path)
        except FileNotFoundError:
            return False
        return True

    async def put(self, path: str, data: bytes, tenant: str = "") -> None:
        """Write an object of `tenant`'s, encrypted where there is a key: it appears whole or not at all."""
        if self._sealer is not None:
            data = await asyncio.to_thread(self._sealer.seal, path, data, tenant)
        await obstore.put_async(self._store, path, data)

    async def delete(self, path: str) -> None:
        """Delete an object; one that is not there is fine."""
        with suppress(FileNotFoundError):
            await obstore.delete_async(self._store, path)

    async def names(self, prefix: str | None = None, *, older_than: float | None = None) -> AsyncIterator[list[str]]:
        """Yield the names of all objects under `prefix`, in pages; only those last written before a Unix time."""
        limit = None if older_than is None else datetime.fromtimestamp(older_than, UTC)
        async for page in obstore.list(self._store, prefix, chunk_size=1000):
            yield [meta["path"] for meta in page if limit is None or meta["last_modified"] < limit]

    async def stamped(self, prefix: str) -> AsyncIterator[list[tuple[str, datetime]]]:
        """Yield names and times of last writing of all objects under `prefix`, in pages."""
        async for page in obstore.list(self._store, prefix, chunk_size=1000):
            yield [(meta["path"], meta["last_modified"]) for meta in page]

    def remove_drafts(self) -> None:
        """Delete what interrupted local writes left behind (names that end in #number); only the owner may."""
        if self._local:
            for draft in self._local.glob("*/*/*/*#[0-9]*"):
                draft.unlink(missing_ok=True)


def _sealer(config: StoreConfig) -> Sealer | None:
    if config.encryption_key_file is None:
        return None
    try:
        return Sealer(read_master_key(config.encryption_key_file))
    except KeyFileError as error:
        raise StoreConfigError(str(error)) from error


class _Breaker:
    """Counts faults in a row, and closes for a while after too many."""

    def __init__(self) -> None:
        self.faults = 0
        self.closed_until = 0.0

    def count(self, error: Exception) -> None:
        self.faults += 1
        if self.faults >= _TRIP_AFTER:
            self.closed_until = time.monotonic() + _COOL_DOWN_SECONDS
            log.warning("the object store is unavailable: %s", type(error).__name__)
