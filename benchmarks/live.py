"""A real service on a free port, started as a user starts it, for measurements over HTTP."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def live_service(*, patience_seconds: float = 120.0, **settings: str) -> Iterator[str]:
    """Start `headstart serve` with an empty data folder, yield its base URL, stop it with SIGTERM.

    Args:
        patience_seconds: how long it may take to become ready.
        settings: HEADSTART_ variables without the prefix, lower case.

    Raises:
        RuntimeError: it ended or was not ready in time; the message holds the end of its log.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        environment = os.environ | {f"HEADSTART_{k.upper()}": v for k, v in settings.items()}
        environment["HEADSTART_DATA_DIR"] = str(Path(folder) / "data")
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
        with live_process(command, port, environment, patience_seconds) as url:
            yield url


@contextmanager
def live_process(
    command: Sequence[str], port: int, environment: Mapping[str, str], patience_seconds: float
) -> Iterator[str]:
    """Start a server that answers GET /readyz on `port`, yield its base URL, stop it with SIGTERM.

    Raises:
        RuntimeError: it ended or was not ready in time; the message holds the end of its log.
    """
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="headstart-log-") as folder:
        log = Path(folder) / "service.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
        try:
            _wait_ready(process, url, log, patience_seconds)
            yield url
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_ready(process: subprocess.Popen[bytes], url: str, log: Path, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if httpx.get(f"{url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the service did not become ready:\n" + log.read_text(errors="replace")[-2000:])
