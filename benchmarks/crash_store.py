"""Crash rounds of the store alone: kill it, or its Redis, at a random moment of a full load; bring it back; look."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

KINDS = ("store", "redis")
REDIS = "redis-server"
PATIENCE_SECONDS = 60.0
LEAST_BUSY, MOST_BUSY = 0.3, 1.8
COUNTS = ("writes", "loads", "exact", "gone", "unavailable", "wrong", "failed", "missing_at_rest")


@dataclass(frozen=True, slots=True)
class Round:
    """What one kill did.

    Attributes:
        level: "store" or "service".
        kind: what was killed.
        recovery_seconds: until everything worked again.
        problems: integrity problems left after the repair.
        found: integrity problems that the repair found and mended.
        loaded: states loaded and compared while the store was at rest.
    """

    level: str
    kind: str
    recovery_seconds: float
    problems: tuple[str, ...]
    found: int = 0
    loaded: int = 0


class Victim:
    """A worker process on a data folder, started again as often as it is killed.

    Args:
        folder: data folder and log.
        environment: variables it gets on top of this process' own.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self._environment = os.environ | dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._listener: threading.Thread | None = None
        self._lock = threading.Condition()
        self._latest: dict[str, Any] = {}
        self._answer: dict[str, Any] | None = None
        self._starts = 0
        self._ended: Counter[str] = Counter()
        self.errors: list[str] = []

    def start(self) -> None:
        """Start a process on the same data."""
        self._starts += 1
        command = [sys.executable, "-m", "benchmarks.crash_worker", str(self._folder / "data"), str(self._starts)]
        with (self._folder / "worker.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        self._latest = {}
        assert self._process.stdout is not None
        self._listener = threading.Thread(target=self._listen, args=(self._process.stdout,), daemon=True)
        self._listener.start()

    def _listen(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                facts = json.loads(line)
            except ValueError:  # cut off by the kill
                continue
            with self._lock:
                if "problems" in facts:
                    self._answer = facts
                elif "error" in facts:
                    self.errors.append(facts["error"])
                else:
                    self._latest = facts
                self._lock.notify_all()

    def wait_for(self, reached: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        """Return the first report that fits.

        Raises:
            RuntimeError: there was none in time, or the process ended.
        """
        deadline = time.monotonic() + PATIENCE_SECONDS
        with self._lock:
            while not reached(self._latest):
                if time.monotonic() > deadline or self._running().poll() is not None:
                    raise RuntimeError(f"the worker is never {what}: {self._tail()}")
                self._lock.wait(0.1)
            return self._latest

    def _running(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def _tail(self) -> str:
        return (self._folder / "worker.log").read_text(errors="replace")[-2000:]

    def kill(self) -> None:
        """Kill the worker, and reap it."""
        process = self._running()
        process.send_signal(signal.SIGKILL)
        self._reap(process)

    def kill_redis(self) -> None:
        """Kill the worker's redis-server."""
        for child in psutil.Process(self._running().pid).children(recursive=True):
            if REDIS in " ".join(child.cmdline()):
                child.kill()
                return
        raise RuntimeError("the worker has no redis-server")

    def check(self) -> dict[str, Any]:
        """Let the worker come to rest and check itself; return its answer."""
        process = self._running()
        self._answer = None
        assert process.stdin is not None
        process.stdin.write("check\n")
        process.stdin.flush()
        self.wait_for(lambda _: self._answer is not None, "checked")
        return self._taken()

    def _taken(self) -> dict[str, Any]:
        assert self._answer is not None
        return self._answer

    def stop(self) -> None:
        """Let the worker end in order."""
        process = self._running()
        assert process.stdin is not None
        process.stdin.write("stop\n")
        process.stdin.flush()
        self._reap(process)

    def close(self) -> None:
        """End the worker, however it is."""
        if self._running().poll() is None:
            self.kill()

    def _reap(self, process: subprocess.Popen[str]) -> None:
        process.wait(PATIENCE_SECONDS)
        assert self._listener is not None
        self._listener.join(PATIENCE_SECONDS)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        self._keep_counts()

    def _keep_counts(self) -> None:
        with self._lock:
            self._ended.update({name: self._latest.get(name, 0) for name in COUNTS})
            self._latest = {}

    def counts(self) -> Counter[str]:
        """Return what was seen over all processes (of a killed one: up to its last report)."""
        with self._lock:
            now = {name: self._latest.get(name, 0) for name in COUNTS}
        return self._ended + Counter(now)


def run_rounds(
    folder: Path, rounds: int, seed: int, done: Callable[[], None] = lambda: None
) -> tuple[list[Round], dict[str, Any]]:
    """Kill so many times; return the rounds, and what was seen in all of them together.

    Args:
        folder: for the data.
        rounds: how many kills.
        seed: chooses what is killed, and when.
        done: called after each round.
    """
    rng = random.Random(seed)
    victim = Victim(folder)
    victim.start()
    found = []
    try:
        victim.wait_for(lambda latest: latest.get("evictions", 0) > 0, "evicting")
        for _ in range(rounds):
            kind = rng.choice(KINDS)
            time.sleep(rng.uniform(LEAST_BUSY, MOST_BUSY))
            found.append(_round(victim, kind))
            done()
        victim.stop()
    finally:
        victim.close()
    return found, {**victim.counts(), "errors": victim.errors}


def _round(victim: Victim, kind: str) -> Round:
    started = time.monotonic()
    if kind == "store":
        victim.kill()
        started = time.monotonic()
        victim.start()
    else:
        victim.kill_redis()
        victim.wait_for(lambda latest: latest.get("available") is False, "bereft of its Redis")
    victim.wait_for(lambda latest: bool(latest.get("available")), "available again")
    seconds = time.monotonic() - started
    answer = victim.check()
    return Round("store", kind, seconds, tuple(answer["problems"]), answer["found"], answer["loaded"])
