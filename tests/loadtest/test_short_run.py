"""`make loadtest`: a short, complete run, which brings its own service where none answers."""

import json
import os
import subprocess
import sys
from pathlib import Path

from loadtest.__main__ import answers, free_port


def test_it_brings_its_own_service_and_takes_it_away(tmp_path: Path, resuming_model: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    # A tiny model, and a limit on lateness that a busy machine keeps: only the way is tested.
    command = [sys.executable, "-W", "ignore", "-m", "loadtest", "--host", url, "--out", str(tmp_path / "out")]
    options = ("--limit", "8", "--load=2", "--max-lateness", "60")
    environment = os.environ | {"HEADSTART_MODEL": str(resuming_model), "TMPDIR": str(tmp_path)}
    done = subprocess.run([*command, *options], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"No service answers at {url}" in done.stdout
    assert f"Written to {tmp_path / 'out'}" in done.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert (report["summary"]["requests"], report["control"]["summary"]["requests"]) == (8, 8)
    assert report["service"]["entries_before"] == 0
    assert report["options"]["load"] == 2
    assert not answers(report["options"]["host"]), "the service is gone"
    assert not list(tmp_path.glob("headstart-loadtest-*")), "and its cache"
