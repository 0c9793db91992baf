"""Several processes share a replay: the messages between Locust's master and its workers.

    master → worker   headstart-share     which part of how many is yours
    worker → master   headstart-ready     the fingerprint of the schedule I built, or why I could not
    master → worker   headstart-begin     run r starts in d seconds, due times multiplied by s
    worker → master   headstart-outcomes  what came of some requests
    worker → master   headstart-finished  run r: that was all, and how late my clock rang

Prompts and keys are not sent: each worker reads its own copy of the log and of the keys.
"""

import time
from dataclasses import asdict
from typing import Any

import gevent
from gevent.event import Event

from loadtest.conductor import ReplayStopped
from loadtest.outcomes import Outcome, outcome_of

SHARE, READY, BEGIN, OUTCOMES, FINISHED = (
    f"headstart-{name}" for name in ("share", "ready", "begin", "outcomes", "finished")
)
FLUSH_SECONDS = 0.5
LARGEST_BATCH = 500
READY_SECONDS = 600.0
GONE_SECONDS = 20.0
"""Locust calls a worker missing after three seconds; a busy one comes back."""


class RemoteCast:
    """The senders are workers.

    Args:
        runner: Locust's master runner; its workers are connected.
        digest: of the master's schedule.
    """

    def __init__(self, runner: Any, digest: str) -> None:
        self._runner = runner
        self._digest = digest
        self._workers = sorted(client.id for client in runner.clients.ready)
        self.senders = len(self._workers)
        self._waiting = set(self._workers)
        self._seen = dict.fromkeys(self._workers, time.monotonic())
        self._fault: str | None = None
        self._changed = Event()

    def deal(self) -> None:
        """Tell each worker its share."""
        for share, worker in enumerate(self._workers):
            self._runner.send_message(SHARE, {"share": share, "shares": len(self._workers)}, client_id=worker)

    def wait_ready(self) -> None:
        """Return when every worker has shown the same schedule."""
        with gevent.Timeout(READY_SECONDS, ReplayStopped("the workers did not get ready")):
            while self._waiting:
                self._changed.wait(1.0)
                self._changed.clear()
                self.check()

    def begin(self, run: int, delay: float, stretch: float) -> None:
        """Let all start a run in `delay` seconds, each by its own clock: a message's way is all they differ by."""
        self._runner.send_message(BEGIN, {"run": run, "delay": delay, "stretch": stretch})

    def check(self) -> None:
        """Raise if a worker is gone or cannot take part."""
        if self._fault is not None:
            raise ReplayStopped(self._fault)
        here = {client.id for client in self._runner.clients.all} - {one.id for one in self._runner.clients.missing}
        now = time.monotonic()
        self._seen |= dict.fromkeys(here, now)
        gone = sum(now - self._seen[worker] > GONE_SECONDS for worker in self._workers)
        if gone:
            raise ReplayStopped(f"{gone} of {len(self._workers)} workers are gone")

    def take_ready(self, worker: str, data: dict[str, Any]) -> None:
        """Take a worker's answer to its share."""
        if data["fault"] is not None:
            self._fault = f"a worker cannot take part: {data['fault']}"
        elif data["digest"] != self._digest:
            self._fault = "a worker has another log, other keys or another version of this kit"
        self._waiting.discard(worker)
        self._changed.set()


def read_outcomes(data: dict[str, Any]) -> list[Outcome]:
    """Read what a worker's message says of some requests."""
    return [outcome_of(one) for one in data["outcomes"]]


class Courier:
    """Carries a worker's outcomes to the master, some at a time.

    Args:
        runner: Locust's worker runner.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._run = 0
        self._bag: list[Outcome] = []
        self._greenlet = gevent.spawn(self._flush_forever)

    def emit(self, run: int, outcome: Outcome) -> None:
        """Take an outcome along."""
        self._run = run
        self._bag.append(outcome)

    def finished(self, run: int, stalls: list[float]) -> None:
        """Send what is left, and that it was all."""
        self._flush()
        self._runner.send_message(FINISHED, {"run": run, "stalls": stalls})

    def stop(self) -> None:
        """Send what is left, and stop."""
        self._greenlet.kill(block=False)
        self._flush()

    def _flush_forever(self) -> None:
        while True:
            gevent.sleep(FLUSH_SECONDS)
            self._flush()

    def _flush(self) -> None:
        while self._bag:
            batch, self._bag = self._bag[:LARGEST_BATCH], self._bag[LARGEST_BATCH:]
            self._runner.send_message(OUTCOMES, {"run": self._run, "outcomes": [asdict(one) for one in batch]})
