"""A short, complete load test: `python -m loadtest`, or `make loadtest`.

Replays the start of the sample log and its uncached control run against the service at `--host`, and writes a report.
Where none answers there, it starts one of its own on a free port, with an empty cache in a folder that is removed
afterwards. All other options go to Locust (`python -m loadtest --limit 0 --log prompts.csv`), after the short run's
own, so that they win.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LOCUSTFILE = Path(__file__).parent / "locustfile.py"
SHORT = ("--limit", "60", "--control", "--only-summary", "--loglevel", "WARNING")
LOAD = ("--load", "0.7")
"""How closely requests follow each other is measured: a slow machine is not simply overrun."""

PACING = ("--load", "--speed", "--rate")
PATIENCE_SECONDS = 600.0
STARTUP_FAILED = 1


def main(arguments: Sequence[str]) -> int:
    """Run it and return Locust's exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--host", default="http://127.0.0.1:8000", help="Base URL of the service.")
    parser.add_argument("--out", type=Path, default=Path("var/loadtest"), help="Folder of the report.")
    options, rest = parser.parse_known_args(arguments)
    if answers(options.host):
        return run_locust(options.host, options.out, rest)
    sys.stdout.write(f"No service answers at {options.host}: starting one for this test, with an empty cache.\n")
    sys.stdout.flush()
    try:
        with own_service() as url:
            return run_locust(url, options.out, rest)
    except RuntimeError as error:
        sys.stderr.write(f"error: {error}\n")
        return STARTUP_FAILED


def answers(url: str) -> bool:
    """Whether a service that can draw is there."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=3) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def run_locust(url: str, out: Path, rest: Sequence[str]) -> int:
    """Run Locust, headless, and return its exit code."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", url, *SHORT]
    paced = any(option.split("=")[0] in PACING for option in rest)
    return subprocess.run([*command, *(() if paced else LOAD), "--out", str(out), *rest], check=False).returncode


@contextmanager
def own_service() -> Iterator[str]:
    """Start a service, yield its base URL, and stop it.

    Raises:
        RuntimeError: it did not become ready; the message holds the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="headstart-loadtest-") as name:
        folder, port = Path(name), free_port()
        environment = os.environ | {"HEADSTART_DATA_DIR": str(folder / "data")}
        with (folder / "log").open("wb") as sink:
            command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
            process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(url, process, folder / "log")
            yield url
        finally:
            _stop(process)


def free_port() -> int:
    """Return a TCP port that is free on the loopback interface now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if answers(url):
            return
        time.sleep(0.2)
    raise RuntimeError("the service did not become ready:\n" + log.read_text(errors="replace")[-2000:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
