"""A real server in a process of its own, and short ways to talk to it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

# A suite may share two cores with a training run.
PATIENCE_SECONDS = 240.0


class LiveServer:
    """`headstart serve` on a free port; HEADSTART_ variables of the test's own shell do not reach it."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self.data_dir = folder / "data"
        # On a machine busy with other things a slow store is no fault of the service.
        self._settings = {"store_timeout_seconds": "20", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "LiveServer":
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HEADSTART_")}
        environment |= {f"HEADSTART_{name.upper()}": value for name, value in self._settings.items()}
        environment["HEADSTART_DATA_DIR"] = str(self.data_dir)
        command = [sys.executable, "-W", "ignore", "-m", "service.cli", "serve", "--port", str(self.port)]
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(command, env=environment, stdout=sink, stderr=sink)
        try:
            self.wait(lambda: self._ready(), "ready")
        except BaseException:
            self.kill()
            raise
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int:
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    def kill(self) -> None:
        """End it as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(120)

    def wait(self, reached: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if reached():
                return
            time.sleep(0.05)
        raise AssertionError(f"never {what}:\n{self.log.read_text()[-3000:]}")

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.log.read_text()[-3000:]
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


class Client:
    """Plain HTTP against a live server."""

    def __init__(self, server: LiveServer, key: str | None = None) -> None:
        self.server = server
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.http = httpx.Client(base_url=server.url, timeout=PATIENCE_SECONDS, headers=headers)

    def post(self, body: object, **options: Any) -> httpx.Response:
        return self.http.post("/v1/images/generations", json=body, **options)

    def draw(self, prompt: str, *, headers: dict[str, str] | None = None, **fields: object) -> dict[str, Any]:
        """Draw one picture and return its item of `data`."""
        answer = self.post({"prompt": prompt, **fields}, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json()["data"][0])

    def cache(self, prompt: str, **fields: Any) -> dict[str, Any]:
        """Draw one picture and return what the cache did for it."""
        return dict(self.draw(prompt, **fields)["cache"])

    def settle(self) -> None:
        """Wait until what was noted behind the answers has been written."""
        self.server.wait(lambda: self.metric("headstart_cache_pending_writes") == 0, "settled")

    def entries(self) -> int:
        return int(self.http.get("/v1/stats").json()["cache"]["entries"])

    def metric(self, name: str, **labels: str) -> float:
        """Return the value of one sample, 0 when there is none."""
        for family in text_string_to_metric_families(self.http.get("/metrics").text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return 0.0

    def events(self, body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        with self.http.stream("POST", "/v1/generations/events", json=body) as answer:
            assert answer.status_code == 200, answer.read()
            return list(parse_events(answer.iter_lines()))


def parse_events(lines: Iterator[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    name = ""
    for line in lines:
        if line.startswith("event: "):
            name = line[len("event: ") :]
        elif line.startswith("data: "):
            yield name, json.loads(line[len("data: ") :])


@contextmanager
def live(folder: Path, **settings: str) -> Iterator[LiveServer]:
    server = LiveServer(folder, **settings).start()
    try:
        yield server
    finally:
        server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
