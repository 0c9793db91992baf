"""Stores whose right contents are known beforehand, and small disks that can be full or read-only."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from disks import Open

from benchmarks.small_disk import Disk, NoDiskError, small_disk
from cache_store import CacheStore, StoreConfig


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[Open]:
    """Opens stores without a RAM tier on one data folder; those still open at the end are closed."""
    opened: list[CacheStore] = []

    async def open_one(**changes: object) -> CacheStore:
        settings: dict[str, object] = {"data_dir": tmp_path / "data", "timeout_seconds": 5.0, "ram_bytes": 0}
        store = await CacheStore.open(StoreConfig(**{**settings, **changes}))  # type: ignore[arg-type]
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 2 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        with small_disk(folder, 2) as mounted:
            yield mounted
    except NoDiskError as error:
        pytest.skip(str(error))
