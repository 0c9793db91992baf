"""A real store in a temporary folder: private Redis, local objects, FAISS."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from store_nouns import Make

from cache_store import CacheStore, StoreConfig

Open = Callable[..., Awaitable[CacheStore]]


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens stores on one data folder; those still open at the end are closed."""
    opened: list[CacheStore] = []

    async def open_one(**changes: object) -> CacheStore:
        settings: dict[str, object] = {"data_dir": tmp_path / "data", "timeout_seconds": 3.0, **changes}
        store = await CacheStore.open(StoreConfig(**settings))  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(open_store: Open) -> CacheStore:
    return await open_store()
