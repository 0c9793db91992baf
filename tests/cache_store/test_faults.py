"""Whatever breaks, the cache says so quickly, never lies, and comes back."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest
from store_nouns import append_only_file, until

from cache_store import CacheStore, CacheUnavailable, StoreConfig, StoreConfigError


def available(store: CacheStore):
    async def check() -> bool:
        return (await store.stats()).available

    return check


async def remember(store: CacheStore, make, *seeds: int) -> None:
    for seed in seeds:
        assert store.remember(make.entry(seed), make.states(seed), make.image)
    await store.flush()


def kill_redis(store: CacheStore) -> None:
    os.kill(store._server.pid, signal.SIGKILL)


async def test_killed_redis_is_noticed_at_once_and_comes_back(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    # Everything is synced once a second: after that nothing is lost.
    await asyncio.sleep(1.2)
    kill_redis(store)
    started = time.monotonic()
    refused = 0
    for _ in range(20):
        with pytest.raises(CacheUnavailable):
            await store.search(make.signature, make.vector(1))
        refused += 1
    assert refused == 20
    assert time.monotonic() - started < 1.0
    stats = await store.stats()
    assert (stats.available, stats.entries, stats.states) == (False, 0, 0) or stats.states == 5
    for call in (store.find_exact("anna-1"), store.recent("anna"), store.entry(1, "anna"), store.clear()):
        with pytest.raises(CacheUnavailable):
            await call
    await until(available(store))
    (found,) = await store.search(make.signature, make.vector(1))
    assert await store.load(found.entry_id, found.states[0]) is not None
    await remember(store, make, 2)
    assert len(await store.recent("anna")) == 2
    assert await store.check_integrity() == []


async def test_a_restart_nobody_saw_is_noticed_by_the_next_call(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    gone, restarts = store._server.pid, store._server.restarts
    for task in (store._link._keeper, *store._follower._tasks):  # which would see it within a second
        task.cancel()
    kill_redis(store)

    async def serves_again() -> bool:
        if store._server.restarts == restarts or store._server.pid == gone:
            return False
        with contextlib.suppress(OSError):
            _, writer = await asyncio.open_unix_connection(store._server.socket_path)
            writer.close()
            return True
        return False

    await until(serves_again)
    assert store._link.available
    with pytest.raises(CacheUnavailable):
        await store.recent("anna")
    assert not store._link.available
    store._link.start()
    await until(available(store))
    await store.recent("anna")


async def test_a_write_during_a_restart_of_redis_is_not_lost(store: CacheStore, make) -> None:
    kill_redis(store)
    with pytest.raises(CacheUnavailable):
        await store.recent("anna")
    await remember(store, make, 1)
    assert (await store.stats()).dropped_writes == 0
    assert len(await store.recent("anna")) == 1


async def test_a_hung_redis_costs_the_timeout_only_a_few_times(open_store, make) -> None:
    store = await open_store(timeout_seconds=0.2)
    pid = store._server.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        for _ in range(30):
            with contextlib.suppress(CacheUnavailable):
                await store.search(make.signature, make.vector(1))  # nothing indexed: needs no Redis at first
            with pytest.raises(CacheUnavailable):
                await store.find_exact("anna-1")
        assert time.monotonic() - started < 2.0
        assert not (await store.stats()).available
    finally:
        os.kill(pid, signal.SIGCONT)
    await until(available(store))


async def test_an_emptied_redis_is_noticed(store: CacheStore, make) -> None:
    await remember(store, make, 1)
    (old,) = await store.search(make.signature, make.vector(1))
    await store._link.call("FLUSHALL")
    assert await store.search(make.signature, make.vector(1)) == []

    async def noticed() -> bool:
        return bool(store._parts.objects.store_id not in _stores(store) and store._link.available)

    await until(noticed)
    await remember(store, make, 2)
    (new,) = await store.search(make.signature, make.vector(2))
    assert new.entry_id != old.entry_id
    assert await store.check_integrity() == []


def _stores(store: CacheStore) -> set[str]:
    """Return the object folders of the catalogue as first opened."""
    return {path.name for path in (store._config.data_dir / "objects").iterdir()}


async def test_an_unreadable_catalogue_is_set_aside(open_store, make, tmp_path: Path, caplog) -> None:
    store = await open_store()
    await remember(store, make, 1)
    await store.close()
    log = append_only_file(tmp_path / "data")
    data = log.read_bytes()
    log.write_bytes(data[:30] + b"rubbish" + data[37:])

    store = await open_store()
    await until(available(store))
    await store.flush()
    assert await store.recent("anna") == []
    await remember(store, make, 2)
    assert [summary.seed for summary in await store.recent("anna")] == [2]
    assert await store.check_integrity() == []
    assert len(list((tmp_path / "data" / "redis").glob("appendonly*.broken-*"))) == 1
    assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1


def flip(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 0x10]) + data[position + 1 :]


def positions(data: bytes) -> dict[str, int]:
    """Return one position of each kind of byte in a safetensors file of ours."""
    end = 8 + int.from_bytes(data[:8], "little")
    return {
        "length": 0,
        "header": 12,
        "checksum": data.index(b'"checksum":"') + 20,
        "level": data.index(b'"level":"') + 9,
        "shape": data.index(b'"shape":[') + 9,
        "latent": end + 5,
        "last": len(data) - 1,
    }


@pytest.mark.parametrize(
    "where", ["length", "header", "checksum", "level", "shape", "latent", "last", "cut", "empty"]
)
async def test_damaged_states_are_never_served(open_store, make, tmp_path: Path, caplog, where: str) -> None:
    store = await open_store(ram_bytes=0)
    await remember(store, make, 1)
    (found,) = await store.search(make.signature, make.vector(1))
    ref = found.states[1]
    (path,) = (tmp_path / "data" / "objects").rglob(f"*{found.entry_id:016x}.{round(ref.log_snr * 1000)}.safetensors")
    data = path.read_bytes()
    damaged = {"cut": data[: len(data) // 2], "empty": b""}
    path.write_bytes(damaged[where] if where in damaged else flip(data, positions(data)[where]))

    assert await store.load(found.entry_id, ref) is None
    await store.flush()
    assert len([record for record in caplog.records if "is forgotten" in record.message]) == 1
    assert "secret" not in caplog.text
    (again,) = await store.search(make.signature, make.vector(1))
    assert ref not in again.states
    assert len(again.states) == 4
    stats = await store.stats()
    assert (stats.corrupt_states, stats.evictions) == (1, {"corrupt": 1})
    assert await store.check_integrity() == []


async def test_another_entrys_state_is_never_served(open_store, make, tmp_path: Path) -> None:
    store = await open_store(ram_bytes=0)
    await remember(store, make, 1, 2)
    first, second = await store.search(make.signature, make.vector(1))
    paths = sorted((tmp_path / "data" / "objects").rglob("*.safetensors"))
    by_entry = {i: [p for p in paths if p.name.startswith(f"{i:016x}")] for i in (first.entry_id, second.entry_id)}
    for mine, theirs in zip(by_entry[first.entry_id], by_entry[second.entry_id], strict=True):
        mine.write_bytes(theirs.read_bytes())
    by_entry[second.entry_id][0].write_bytes(by_entry[second.entry_id][1].read_bytes())
    for ref in first.states:
        assert await store.load(first.entry_id, ref) is None
    loaded = [await store.load(second.entry_id, ref) for ref in second.states]
    assert sum(state is None for state in loaded) == 1


async def test_missing_and_damaged_pictures(store: CacheStore, make, tmp_path: Path) -> None:
    await remember(store, make, 1, 2)
    pictures = sorted((tmp_path / "data" / "objects").rglob("*.png"))
    pictures[0].unlink()
    pictures[1].write_bytes(b"another picture")
    assert await store.find_exact("anna-1") is None
    assert await store.find_exact("anna-2") is None
    await store.flush()
    assert [summary.has_image for summary in await store.recent("anna")] == [False, False]
    assert await store.check_integrity() == []


async def test_integrity_sees_what_is_wrong(store: CacheStore, make, tmp_path: Path) -> None:
    await remember(store, make, 1)
    next((tmp_path / "data" / "objects").rglob("*.safetensors")).unlink()
    (tmp_path / "data" / "objects" / store._parts.objects.store_id / "stray").write_bytes(b"x")
    store._parts.index.remove([(await store.recent("anna"))[0].entry_id])
    problems = await store.check_integrity()
    assert [line.split()[-1] for line in problems] == ["missing", "nothing", "index"]


async def test_full_queue_drops_and_counts(open_store, make) -> None:
    store = await open_store(queue_size=2)
    accepted = [store.remember(make.entry(seed), make.states(seed), make.image) for seed in range(1, 6)]
    assert accepted == [True, True, False, False, False]
    stats = await store.stats()
    assert stats.dropped_writes == 3
    await store.flush()
    assert len(await store.recent("anna")) == 2
    await store.close()
    assert store.remember(make.entry(9), [], make.image) is False


async def test_unix_path_too_long(open_store, make, tmp_path: Path) -> None:
    store = await open_store(data_dir=tmp_path / ("long" * 30))
    await remember(store, make, 1)
    socket = store._server.socket_path
    assert len(os.fsencode(socket)) <= 100
    assert socket.parent.stat().st_mode & 0o777 == 0o700
    await store.close()
    assert not socket.parent.exists()


async def test_bad_configuration_is_one_clear_line(open_store, tmp_path: Path) -> None:
    await open_store()
    (tmp_path / "file").write_text("")
    bad = [
        ({}, "in use by another Headstart service"),
        ({"data_dir": tmp_path / "file"}, "not writable"),
        ({"eviction": "nope"}, "unknown eviction policy 'nope'"),
        ({"redis_url": "nope://"}, "not a Redis URL"),
        ({"object_url": "gopher://x"}, "object store cannot be opened"),
        ({"object_url": "http://x"}, "object store cannot be opened"),
        ({"queue_size": 0}, "queue_size"),
        ({"timeout_seconds": 0.0}, "timeout_seconds"),
        ({"index_device": "tpu"}, "index_device must be cpu or gpu"),
        ({"index_device": "gpu"}, "FAISS sees no GPU"),
    ]
    for number, (change, message) in enumerate(bad):
        if number:
            change = {"data_dir": tmp_path / f"other{number}", **change}
        with pytest.raises(StoreConfigError, match=message) as caught:
            await open_store(**change)
        assert "\n" not in str(caught.value)


async def test_a_shared_redis_that_is_away(open_store, make) -> None:
    started = time.monotonic()
    store = await open_store(redis_url=f"unix://{tempfile.gettempdir()}/nobody-listens-here.sock")
    assert time.monotonic() - started < 8.0
    with pytest.raises(CacheUnavailable):
        await store.search(make.signature, make.vector(1))
    assert store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()
    stats = await store.stats()
    assert (stats.available, stats.dropped_writes) == (False, 1)


async def test_two_services_share_a_redis(open_store, make, tmp_path: Path) -> None:
    host = await open_store()
    shared = {"redis_url": f"unix://{host._server.socket_path}", "object_url": f"file://{tmp_path}/objects"}
    one = await open_store(data_dir=tmp_path / "one", **shared)
    two = await open_store(data_dir=tmp_path / "two", **shared)
    await remember(one, make, 1)

    async def seen() -> bool:
        return bool(await two.search(make.signature, make.vector(1)))

    await until(seen)
    (found,) = await two.search(make.signature, make.vector(1))
    assert await two.load(found.entry_id, found.states[0]) is not None
    assert await one.clear("anna") == 1

    async def gone() -> bool:
        return found.entry_id not in two._parts.index and two._parts.ram.nbytes == 0

    await until(gone)
    assert await two.check_integrity() == []


ROOT = Path(__file__).parents[2]
DIES_WHILE_WRITING = """
import asyncio, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[2])
from store_nouns import Make
from cache_store import CacheStore, StoreConfig
from cache_store.catalogue import Catalogue

async def main():
    make = Make()
    store = await CacheStore.open(StoreConfig(data_dir=pathlib.Path(sys.argv[1]), timeout_seconds=3.0))
    store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()

    async def die(*_):
        print(store._server.pid, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)

    Catalogue.commit = die
    store.remember(make.entry(2), make.states(2), make.image)
    await store.flush()

asyncio.run(main())
"""


async def test_a_service_killed_while_writing_leaves_no_visible_entry(open_store, make, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DIES_WHILE_WRITING, str(tmp_path / "data"), str(Path(__file__).parent)]
    child = await asyncio.to_thread(subprocess.run, command, cwd=ROOT, capture_output=True, timeout=60, check=False)
    assert child.returncode == -signal.SIGKILL, child.stderr.decode()
    objects = tmp_path / "data" / "objects"
    assert len(list(objects.rglob("*.safetensors"))) == 10

    store = await open_store()  # waits for the dead service's redis-server to end
    with contextlib.suppress(psutil.NoSuchProcess):
        assert psutil.Process(int(child.stdout)).status() == psutil.STATUS_ZOMBIE
    await store.flush()
    assert [summary.seed for summary in await store.recent("anna")] == [1]
    assert await store.find_exact("anna-2") is None
    assert len(await store.search(make.signature, make.vector(2))) == 1
    assert len(list(objects.rglob("*.safetensors"))) == 5
    assert await store.check_integrity() == []


async def test_object_store_faults_are_unavailability_not_corruption(open_store, make, monkeypatch) -> None:
    store = await open_store(ram_bytes=0)
    await remember(store, make, 1)
    (found,) = await store.search(make.signature, make.vector(1))

    async def broken(path: str) -> bytes | None:
        raise PermissionError(path)

    with monkeypatch.context() as patch:
        patch.setattr(store._parts.objects, "get", broken)
        for _ in range(4):
            with pytest.raises(CacheUnavailable):
                await store.load(found.entry_id, found.states[0])
        with pytest.raises(CacheUnavailable):
            await store.find_exact("anna-1")
    stats = await store.stats()
    assert (stats.available, stats.corrupt_states, stats.states) == (True, 0, 5)


def test_config_is_frozen(tmp_path: Path) -> None:
    with pytest.raises(AttributeError):
        StoreConfig(tmp_path).eviction = "lru"  # type: ignore[misc]


async def test_a_slow_index_does_not_cost_the_connection(open_store, make) -> None:
    store = await open_store(timeout_seconds=0.2)
    assert store.remember(make.entry(1), make.states(1), make.image)
    await store.flush()
    go_on = threading.Event()
    busy = asyncio.create_task(store._parts.thread.run(go_on.wait, 20.0))
    await asyncio.sleep(0.1)
    try:
        for _ in range(5):
            with pytest.raises(CacheUnavailable, match="the index did not answer in time"):
                await store.search(make.signature, make.vector(1))
        assert store._link.available
        assert len(await store.recent("anna")) == 1
    finally:
        go_on.set()
        await busy
    assert len(await store.search(make.signature, make.vector(1))) == 1
