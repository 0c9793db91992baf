"""Locust's master and two worker processes share a replay against the real service."""

import json
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from service_live import Client, LiveServer

import loadtest

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"
ROWS = 21


def locust(folder: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", "-m", "locust", "-f", str(LOCUSTFILE), "--headless", *options]
    # What workers say, their master says too; a pipe that nobody reads would stop them.
    pipe = subprocess.DEVNULL if "--worker" in options else subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, stdout=pipe, stderr=pipe, text=True)


def write_log(path: Path, word: str = "kite") -> None:
    path.write_text(
        "".join(json.dumps({"time": n / 4, "prompt": f"a {word} number {n}"}) + "\n" for n in range(ROWS))
    )


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def ended(processes: Sequence["subprocess.Popen[str]"]) -> tuple[int, str]:
    """Wait for a master, the first, and its workers; return the master's exit code and all it said."""
    try:
        said = "".join(processes[0].communicate(timeout=240))
        for worker in processes[1:]:
            worker.wait(60)
    finally:
        for process in processes:
            process.kill()
    return int(processes[0].returncode), said


def test_two_workers_send_every_request_once(tmp_path: Path, live_service: LiveServer, live_client: Client) -> None:
    write_log(tmp_path / "log.jsonl")
    before = live_client.http.get("/v1/stats").json()["requests"]
    options = ("--log", "log.jsonl", "--control", "--steps", "4", "--max-lateness", "60", "--out", "out")
    code, said = ended([locust(tmp_path, "--host", live_service.url, "--processes", "2", *options)])
    assert code == 0, said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    for outcomes in (report["outcomes"], report["control"]["outcomes"]):
        assert [one["number"] for one in outcomes] == list(range(ROWS)), "each once, in order"
        assert [one["intended"] for one in outcomes] == [n / 4 for n in range(ROWS)]
    alone = 1 + len(report["standalone"]["default size, 4 steps"])
    assert live_client.http.get("/v1/stats").json()["requests"] - before == 2 * ROWS + alone, "and none besides"
    assert report["valid"], report["faults"]
    assert report["generator"]["stall_max"] > 0, "the workers' clocks are reported"


def test_a_worker_with_another_log_ends_the_replay(tmp_path: Path, live_service: LiveServer) -> None:
    for name, word in (("here", "kite"), ("there", "boat")):
        (tmp_path / name).mkdir()
        write_log(tmp_path / name / "log.jsonl", word)
    port = free_port()
    master = ("--master", "--expect-workers", "2", "--master-bind-port", port, "--host", live_service.url)
    worker = ("--worker", "--master-port", port)
    processes = [
        locust(tmp_path / "here", *master, "--log", "log.jsonl", "--report", "report.json"),
        locust(tmp_path / "here", *worker),
        locust(tmp_path / "there", *worker),
    ]
    code, said = ended(processes)
    assert code == 3, said
    assert "NOT VALID: a worker has another log" in said
    assert json.loads((tmp_path / "here" / "report.json").read_text())["outcomes"] == []


def test_a_worker_that_dies_ends_the_replay(tmp_path: Path, live_service: LiveServer, live_client: Client) -> None:
    rows = [json.dumps({"time": n * 10, "prompt": f"a boat number {n}"}) for n in range(40)]
    (tmp_path / "log.jsonl").write_text("\n".join(rows))
    port = free_port()
    master = ("--master", "--expect-workers", "2", "--master-bind-port", port, "--host", live_service.url)
    before = live_client.http.get("/v1/stats").json()["requests"]
    worker = ("--worker", "--master-port", port)
    options = ("--log", "log.jsonl", "--probes", "0", "--report", "report.json")
    processes = [locust(tmp_path, *master, *options), locust(tmp_path, *worker), locust(tmp_path, *worker)]
    live_service.wait(lambda: live_client.http.get("/v1/stats").json()["requests"] > before, "asked for a picture")
    processes[2].kill()
    code, said = ended(processes)
    assert code == 3, said
    assert "NOT VALID: 1 of 2 workers are gone" in said
    outcomes = json.loads((tmp_path / "report.json").read_text())["outcomes"]
    assert 0 < len(outcomes) < len(rows), "what was measured is kept"
