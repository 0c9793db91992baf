"""The tests' own server: one that never gets ready is not left running."""

from pathlib import Path

import psutil
import pytest
from service_live import LiveServer


class NeverReady(LiveServer):
    def _ready(self) -> bool:
        raise AssertionError("never ready")


def test_a_server_that_never_gets_ready_is_not_left_behind(tmp_path: Path, resuming_model: Path) -> None:
    server = NeverReady(tmp_path, model=str(resuming_model))
    with pytest.raises(AssertionError, match="never ready"):
        server.start()
    assert not psutil.pid_exists(server.pid)
