"""The store as the service sees it: present, or for now absent. Its absence never stops a request."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from cache_store.store import CacheStore
from cache_store.types import CacheUnavailable

log = logging.getLogger(__name__)
RETRY_SECONDS = 5.0

StoreOpener = Callable[[], Awaitable[CacheStore]]


class Cache:
    """Holds the open store; when it could not be opened at the start, tries again in the background.

    Args:
        opener: opens the store, raises `CacheUnavailable` when it cannot.
        retry_seconds: pause between tries.
    """

    def __init__(self, opener: StoreOpener, *, retry_seconds: float = RETRY_SECONDS) -> None:
        self._opener = opener
        self._retry_seconds = retry_seconds
        self._store: CacheStore | None = None
        self._retrying: asyncio.Task[None] | None = None

    @property
    def store(self) -> CacheStore:
        """The open store.

        Raises:
            CacheUnavailable: it is not open.
        """
        if self._store is None:
            raise CacheUnavailable("the store is not open")
        return self._store

    async def start(self) -> None:
        """Open the store, or start trying to."""
        if not await self._try_open():
            self._retrying = asyncio.create_task(self._keep_trying())

    async def close(self) -> None:
        """Write what is pending and close the store."""
        if self._retrying is not None:
            self._retrying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._retrying
        store, self._store = self._store, None
        if store is not None:
            await store.close()

    async def _keep_trying(self) -> None:
        opened = False
        while not opened:
            await asyncio.sleep(self._retry_seconds)
            opened = await self._try_open()

    async def _try_open(self) -> bool:
        try:
            self._store = await self._opener()
        except CacheUnavailable as error:
            log.warning("cache unavailable, generating in full: %s", error)
            return False
        return True
