"""What does keeping a state cost, and getting it back?

Writing: entries a second, and bytes sent to the disk by us and our Redis per byte of state, beside plain files and
LMDB with the same bytes. Ours does not force every write to the disk (Redis syncs its log once a second; what may be
lost is a cache's), so it stands beside files and LMDB without sync; with sync they are shown, too. Bytes are counted
as the kernel charges them to a process: whole pages, without the file system's own metadata. All make the bytes from
the arrays themselves. Reading: one state from the RAM tier, local disk and an S3-compatible server on loopback, as a
share of one denoising step of the shipped models.
"""

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks import crash_world as world
from benchmarks.store_backends import Backend, Entry, Files, Lmdb, Ours
from benchmarks.store_reads import read_rows, step_and_state
from benchmarks.store_s3 import URL, find_server, s3_server, used
from cache_store import NoiseState
from cache_store.states import encode_state
from service.engine.base import CapturedState
from service.settings import REPOSITORY

MODELS = ("scenes-unet", "scenes-dit")
SHIPPED = "shipped model"
# Latents in half precision of the models named, at their usual sizes.
SHAPES = {"SD 1.5, 512": (4, 64, 64), "SDXL, 1024": (4, 128, 128), "FLUX, 1024": (16, 128, 128)}
STATES_PER_ENTRY = 4
MIB = 1024**2
# Bytes written per size and system; the page cache takes this, the disk of a small machine too.
BYTES, QUICK_BYTES = 48 * MIB, 8 * MIB
MOST_ENTRIES, QUICK_MOST_ENTRIES = 800, 150
READS, QUICK_READS = 300, 60
ROUNDS, QUICK_ROUNDS = 3, 1
SYNCED_SHARE = 8
"""Every so manieth entry is enough to time writes that wait for the disk."""


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report."""
    steps, state = {}, None
    for model in MODELS:
        steps[model], captured = step_and_state(REPOSITORY / "models" / model, 3 if quick else 8)
        state = state or captured
    assert state is not None
    shapes = {SHIPPED: state.latent.shape} | SHAPES
    amounts = (QUICK_BYTES, QUICK_MOST_ENTRIES, QUICK_ROUNDS) if quick else (BYTES, MOST_ENTRIES, ROUNDS)
    with tempfile.TemporaryDirectory(prefix="headstart-store-") as folder:
        writes = write_rows(Path(folder), shapes, *amounts, quiet=quiet)
        reads, server = _reads(Path(folder), shapes, state, QUICK_READS if quick else READS)
    return report(writes, reads, steps, server)


def _reads(
    folder: Path, shapes: dict[str, tuple[int, ...]], state: CapturedState, reads: int
) -> tuple[list[dict[str, Any]], str | None]:
    """Return the rows, and which S3 server answered."""
    makers = {name: _maker(shape) for name, shape in shapes.items()}
    binary = find_server()
    if binary is None:
        return read_rows(folder, makers, reads, None), None
    with s3_server(binary, folder / "s3") as environment, used(environment):
        return read_rows(folder, makers, reads, URL), f"SeaweedFS ({binary.name} server)"


def _maker(shape: tuple[int, ...]) -> Callable[[int], NoiseState]:
    return lambda number: world.states(number, shape, world.SKIPS[:1])[0]


def write_rows(
    folder: Path, shapes: dict[str, tuple[int, ...]], nbytes: int, most: int, rounds: int, *, quiet: bool
) -> list[dict[str, Any]]:
    """Return one row per size and system; of several rounds the median by speed."""
    rows: list[dict[str, Any]] = []
    with tqdm(total=len(shapes) * len(SYSTEMS) * rounds, disable=quiet) as bar:
        for size, shape in shapes.items():
            entries = _entries(shape, nbytes, most)
            found: dict[str, list[dict[str, Any]]] = {}
            for turn in range(rounds):
                for system in SYSTEMS:
                    place = folder / f"{len(rows)}-{turn}-{len(found)}-{system.replace(' ', '-')}"
                    found.setdefault(system, []).append(_write(system, place, entries))
                    bar.update()
            for system, several in found.items():
                several.sort(key=lambda row: float(row["entries_per_second"]))
                rows.append({"size": size, "system": system} | several[len(several) // 2])
    return rows


def _entries(shape: tuple[int, ...], nbytes: int, most: int) -> list[Entry]:
    one = sum(len(encode_state(1, state)) for state in world.states(1, shape))
    return [(n, world.states(n, shape)) for n in range(1, max(4, min(most, nbytes // one)) + 1)]


@contextmanager
def _ours(folder: Path) -> Iterator[Backend]:
    loop = asyncio.new_event_loop()
    backend = Ours(folder, loop)
    try:
        yield backend
    finally:
        backend.close()
        loop.close()


SYSTEMS: dict[str, Callable[[Path], Any]] = {
    "ours": _ours,
    "files": lambda folder: nullcontext(Files(folder, sync=False)),
    "LMDB": lambda folder: nullcontext(Lmdb(folder, sync=False)),
    "files, synced": lambda folder: nullcontext(Files(folder, sync=True)),
    "LMDB, synced": lambda folder: nullcontext(Lmdb(folder, sync=True)),
}


def _write(system: str, folder: Path, entries: Sequence[Entry]) -> dict[str, Any]:
    """Write all entries by one system; every system starts with nothing waiting for the disk."""
    if "synced" in system:
        entries = entries[::SYNCED_SHARE]
    payload = sum(len(encode_state(number, state)) for number, states in entries for state in states)
    os.sync()
    with SYSTEMS[system](folder) as backend:
        before, started = backend.written_bytes(), time.perf_counter()
        backend.write(entries)
        seconds = time.perf_counter() - started
        if isinstance(backend, Ours):
            backend.rewrite()
        sent = backend.written_bytes() - before
    return {
        "entries": len(entries),
        "state_bytes": payload // (len(entries) * STATES_PER_ENTRY),
        "entries_per_second": len(entries) / seconds,
        "mb_per_second": payload / seconds / 1e6,
        "write_amplification": sent / payload,
    }


def report(
    writes: list[dict[str, Any]], reads: list[dict[str, Any]], steps: dict[str, float], server: str | None
) -> dict[str, Any]:
    """Sum up; the headline is of the shipped model's states and its first model's step."""
    step_ms = {model: 1000 * seconds for model, seconds in steps.items()}
    for row in reads:
        row["share_of_step"] = {model: row["p50_ms"] / step for model, step in step_ms.items()}
    speed = {row["system"]: row for row in writes if row["size"] == SHIPPED}

    def share(place: str) -> float | None:
        found = [row for row in reads if row["size"] == SHIPPED and row["place"] == place]
        return float(found[0]["share_of_step"][MODELS[0]]) if found else None

    return {
        "headline": {
            "writes_per_second_over_files": speed["ours"]["entries_per_second"]
            / speed["files"]["entries_per_second"],
            "write_amplification": speed["ours"]["write_amplification"],
            "ram_read_share_of_step": share("RAM tier"),
            "disk_read_share_of_step": share("local disk, cold"),
            "s3_read_share_of_step": share("S3 server on loopback"),
        },
        "step_ms": step_ms,
        "writes": writes,
        "reads": reads,
        "s3_server": server,
    }
