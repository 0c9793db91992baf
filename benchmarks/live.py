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
from dataclasses import dataclass
from pathlib import Path

import httpx


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Running:
    """A started service: where it answers, its process, its log and its data."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path
    data: Path


@contextmanager
def live_service(*, patience_seconds: float = 120.0, **settings: str) -> Iterator[str]:
    """Start `headstart serve` with an empty data folder, yield its base URL, stop it with SIGTERM.

    Args:
        patience_seconds: how long it may take to become ready.
        settings: HEADSTART_ variables without the prefix, lower case.

    Raises:
        RuntimeError: it ended or was not ready in time; the message holds the end of its log.
    """
    with (
        tempfile.TemporaryDirectory(prefix="headstart-") as folder,
        running_service(Path(folder), settings, patience_seconds=patience_seconds) as running,
    ):
        yield running.url


@contextmanager
def running_service(
    folder: Path, settings: Mapping[str, str], *, patience_seconds: float = 120.0
) -> Iterator[Running]:
    """Like `live_service`, with data and log in `folder`, where they stay."""
    port = free_port()
    # HEADSTART_DATA is the benchmarks' own, see `workloads`.
    inherited = {name: value for name, value in os.environ.items() if name != "HEADSTART_DATA"}
    environment = inherited | {f"HEADSTART_{k.upper()}": v for k, v in settings.items()}
    environment["HEADSTART_DATA_DIR"] = str(folder / "data")
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    with _started(command, port, environment, folder, patience_seconds) as running:
        yield running


@contextmanager
def live_process(
    command: Sequence[str], port: int, environment: Mapping[str, str], patience_seconds: float
) -> Iterator[str]:
    """Start a server that answers GET /readyz on `port`, yield its base URL, stop it with SIGTERM.

    Raises:
        RuntimeError: it ended or was not ready in time; the message holds the end of its log.
    """
    with (
        tempfile.TemporaryDirectory(prefix="headstart-log-") as folder,
        _started(command, port, environment, Path(folder), patience_seconds) as running,
    ):
        yield running.url


@contextmanager
def _started(
    command: Sequence[str], port: int, environment: Mapping[str, str], folder: Path, patience_seconds: float
) -> Iterator[Running]:
    log = folder / "service.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
    running = Running(f"http://127.0.0.1:{port}", process, log, folder / "data")
    try:
        _wait_ready(running, patience_seconds)
        yield running
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(running: Running, patience_seconds: float) -> None:
    deadline = time.monotonic() + patience_seconds
    while time.monotonic() < deadline:
        if running.process.poll() is not None:
            break
        try:
            if httpx.get(f"{running.url}/readyz", timeout=2).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise RuntimeError("the service did not become ready:\n" + running.log.read_text(errors="replace")[-2000:])
