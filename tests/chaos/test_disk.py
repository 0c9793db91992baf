"""Full disks, read-only disks, damaged files, jumping clocks, a Redis that comes back as somebody else."""

import asyncio
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from disks import Open, look, recovered, remember, until

from benchmarks.crash_mend import mend
from benchmarks.crash_store import Victim
from benchmarks.small_disk import Disk
from cache_store import CacheStore, StoreConfigError

FAKETIME = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
MANY = range(1, 9)
ALL_STATES = 4 * len(MANY)
# Neighbours are asked for two at a time.
ALL = Counter(loaded=2 * ALL_STATES, pictures=len(MANY))


async def test_objects_on_a_full_disk(open_store: Open, disk: Disk) -> None:
    store = await open_store(object_url=f"file://{disk.folder}/objects")
    await remember(store, MANY)
    disk.fill()
    await remember(store, range(20, 30))
    assert (await store.stats()).dropped_writes == 10
    await until(lambda: _all_there(store))
    disk.clear()
    await recovered(store, 40)


async def _all_there(store: CacheStore) -> bool:
    return await look(store, MANY) == ALL


async def test_a_redis_whose_disk_is_full_takes_nothing_more_and_recovers(open_store: Open, disk: Disk) -> None:
    store = await open_store(data_dir=disk.folder / "data")
    await remember(store, MANY)
    disk.fill()
    for _ in range(3):
        await remember(store, range(20, 30))
        await look(store, MANY)
        await asyncio.sleep(0.5)
    assert (await store.stats()).dropped_writes > 0
    disk.clear()
    await recovered(store, 40)
    assert await look(store, MANY) == ALL


async def test_a_killed_redis_on_a_full_disk_recovers(open_store: Open, disk: Disk) -> None:
    store = await open_store(data_dir=disk.folder / "data")
    await remember(store, MANY)
    disk.fill()
    os.kill(store._server.pid, signal.SIGKILL)
    await remember(store, range(20, 25))
    await look(store, MANY)
    disk.clear()
    await recovered(store, 40)
    assert await look(store, MANY) == ALL


async def test_objects_on_a_disk_that_turns_read_only(open_store: Open, disk: Disk) -> None:
    store = await open_store(object_url=f"file://{disk.folder}/objects")
    await remember(store, MANY)
    damaged = next((disk.folder / "objects").rglob("*.safetensors"))
    damaged.write_bytes(b"damaged")
    disk.remount("ro")
    await remember(store, range(20, 30))
    assert (await store.stats()).dropped_writes == 10
    seen = await look(store, MANY)
    assert seen["gone"] == 1
    await store.flush()
    disk.remount("rw")
    await recovered(store, 40)


async def test_a_read_only_data_folder_is_one_clear_line(open_store: Open, disk: Disk) -> None:
    disk.remount("ro")
    with pytest.raises(StoreConfigError, match="not writable"):
        await open_store(data_dir=disk.folder / "data")
    disk.remount("rw")


@pytest.mark.parametrize("how", ["flip", "cut", "empty", "swap", "gone"])
async def test_damaged_objects_are_never_served(open_store: Open, tmp_path: Path, how: str) -> None:
    store = await open_store()
    await remember(store, MANY)
    rng = random.Random(how)
    for suffix in ("safetensors", "png"):
        files = sorted((tmp_path / "data" / "objects").rglob(f"*.{suffix}"))
        for path in rng.sample(files, len(files) // 2):
            _damage(path, how, rng, files)
    seen = await look(store, MANY)
    assert seen["unavailable"] == 0
    assert seen["gone"] > 0
    await recovered(store, 40)


async def test_scrubbing_finds_damage_nobody_has_asked_for(open_store: Open, tmp_path: Path) -> None:
    store = await open_store()
    await remember(store, MANY)
    files = sorted(path for path in (tmp_path / "data" / "objects").rglob("*") if path.is_file())
    for path in files[::3]:
        _damage(path, "flip", random.Random(1), files)
    assert len(await store.repair(scrub=True)) == len(files[::3])
    assert await store.check_integrity(scrub=True) == []
    assert (await look(store, MANY))["gone"] == 0


def _damage(path: Path, how: str, rng: random.Random, files: list[Path]) -> None:
    data = path.read_bytes()
    match how:
        case "flip":
            at = rng.randrange(len(data))
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :])
        case "cut":
            path.write_bytes(data[: rng.randrange(len(data))])
        case "empty":
            path.write_bytes(b"")
        case "swap":
            path.write_bytes(rng.choice([file for file in files if file != path]).read_bytes())
        case _:
            path.unlink()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("how", ["flip", "cut"])
async def test_a_damaged_log_of_redis(open_store: Open, tmp_path: Path, how: str, seed: int) -> None:
    store = await open_store()
    await remember(store, MANY)
    await store.close()
    log = _log_of(tmp_path)
    for number in range(6 if how == "flip" else 1):
        _damage(log, how, random.Random(100 * seed + number), [])
    store = await open_store()
    await until(lambda: _available(store))
    await look(store, MANY)
    await recovered(store, 40)


def _log_of(folder: Path) -> Path:
    """Return Redis' append-only file."""
    (log,) = (folder / "data" / "redis").rglob("*.aof")
    return log


async def _available(store: CacheStore) -> bool:
    return (await store.stats()).available


async def test_a_redis_that_comes_back_as_an_older_copy_of_itself(open_store: Open, tmp_path: Path) -> None:
    # Room for about five generations: what the copy remembers has gone since.
    store = await open_store(byte_budget=5 * 4 * 3300, image_budget=20_000)
    await remember(store, MANY)
    log = _log_of(tmp_path)
    copy = shutil.copy(log, tmp_path / "copy")
    await remember(store, range(20, 40))
    os.replace(copy, log)
    os.kill(store._server.pid, signal.SIGKILL)
    await look(store, MANY)
    await until(lambda: _available(store))
    seen = await look(store, [*MANY, *range(20, 40)])
    assert seen["gone"] > 0
    await recovered(store, 50)
    await remember(store, range(60, 80))
    await look(store, [*MANY, *range(20, 80)])


async def test_a_redis_that_comes_back_empty(open_store: Open, tmp_path: Path) -> None:
    store = await open_store()
    await remember(store, MANY)
    log = _log_of(tmp_path)
    if (
        log.parent.name == "appendonlydir"
    ):  # from Redis 7 on; without a part that its manifest names it would not start
        shutil.rmtree(log.parent)
    else:
        log.unlink()
    os.kill(store._server.pid, signal.SIGKILL)
    await look(store, MANY)
    await until(lambda: _available(store))
    assert (await look(store, MANY))["loaded"] == 0
    await recovered(store, 40)


@pytest.mark.parametrize("days", [400, -400])
async def test_a_jump_of_this_process_clock(open_store: Open, monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    store = await open_store()
    await remember(store, MANY)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + days * 86_400)
    await remember(store, range(20, 25))
    assert await look(store, MANY) == ALL
    _, left = await mend(store)
    assert left == []
    await store.close()
    store = await open_store()  # sweeps by the files' times
    await recovered(store, 40)
    assert await look(store, MANY) == ALL
    monkeypatch.undo()
    assert (await mend(store))[1] == []
    assert await look(store, MANY) == ALL


def test_jumps_of_the_clock_under_load(tmp_path: Path) -> None:
    if not FAKETIME.exists():
        pytest.skip("libfaketime is not installed")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    faked = {
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    victim = Victim(tmp_path, {"LD_PRELOAD": str(FAKETIME), **faked})
    victim.start()
    try:
        victim.wait_for(lambda latest: latest.get("writes", 0) > 20, "writing")
        for offset in ("+90d", "-90d"):
            clock.write_text(offset)
            time.sleep(1.5)  # until everybody has noticed
            assert victim.check()["problems"] == [], offset
        counts = victim.counts()
    finally:
        victim.close()
    assert counts["loads"] > 0
    assert {name: counts[name] for name in ("wrong", "failed", "missing_at_rest")} == {
        "wrong": 0,
        "failed": 0,
        "missing_at_rest": 0,
    }, victim.errors
