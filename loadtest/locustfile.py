"""Replay a prompt log against a running service.

    python -m locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000
    python -m locust -f loadtest/locustfile.py --headless --host … --log prompts.csv --users 4 --cache-mode off

A log with times is replayed *open loop*: every request starts at its own time divided by `--speed`, however slow the
service is, and latency counts from that intended start. A log without times is replayed *closed loop*: `--users`
clients take the next prompt as soon as they have their last answer.
"""

import math
import sys
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import gevent
from gevent.lock import Semaphore
from gevent.pool import Group
from locust import FastHttpUser, events
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtest.picture_check import Answer, BadAnswer, read_answer
from loadtest.prompt_log import LogRow, PromptLogError, read_prompt_log
from loadtest.report import Outcome, render, summarise, write_report

SAMPLE_LOG = Path(__file__).parent / "sample_log.jsonl"
MODES = ["auto", "exact", "approximate", "off"]
ROUTE = "/v1/images/generations"
SPENT_HEADERS = ("X-Denoise-Time", "X-Decode-Time")


def add_options(parser: LocustArgumentParser) -> None:
    """Declare the replay's own options (each also as LOCUST_… variable)."""
    group = parser.add_argument_group("Replay")
    group.add_argument("--log", default=str(SAMPLE_LOG), env_var="LOCUST_LOG", help="Prompt log: CSV, TSV or JSONL.")
    group.add_argument("--speed", type=float, default=1.0, help="Divide the log's times by this.")
    group.add_argument("--limit", type=int, default=0, help="Replay this many rows only; 0 is all.")
    group.add_argument(
        "--cache-mode",
        default="auto",
        choices=["auto", "exact", "approximate", "off"],
        help="Sent with every request.",
    )
    group.add_argument("--seed-column", default="seed", help="Column with seeds; rows without one send none.")
    group.add_argument("--steps", type=int, default=0, help="Denoising steps; 0 leaves the service's default.")
    group.add_argument("--answer-timeout", type=float, default=300.0, help="Seconds to wait for one picture.")
    group.add_argument("--report", default="", help="Write figures and every outcome to this JSON file.")
    group.add_argument("--save-images", default="", help="Write every picture to this folder.")


class Replay:
    """One replay: the rows still to send, and what came of those sent."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.options = environment.parsed_options
        _check_options(self.options)
        limit = self.options.limit or None
        self.rows = read_prompt_log(Path(self.options.log), seed_column=self.options.seed_column, limit=limit)
        self.timed = self.rows[0].time is not None
        self.outcomes: list[Outcome] = []
        self.spent_gpu_seconds: float | None = None
        self._next = 0
        self._lock = Semaphore()
        self._started: float | None = None

    def try_take(self) -> LogRow | None:
        """The next row, or None when all are taken."""
        with self._lock:
            if self._next >= len(self.rows):
                return None
            self._next += 1
            return self.rows[self._next - 1]

    @property
    def now(self) -> float:
        """Seconds since the first request was due."""
        if self._started is None:
            self._started = time.perf_counter()
        return time.perf_counter() - self._started

    def due(self, row: LogRow) -> float:
        """When a row of a timed log is due."""
        return (row.time or 0.0) / float(self.options.speed)

    def body(self, row: LogRow) -> dict[str, Any]:
        """The request a row stands for."""
        body: dict[str, Any] = {"prompt": row.prompt, "cache": {"mode": self.options.cache_mode}}
        if row.seed is not None:
            body["seed"] = row.seed
        if self.options.steps:
            body["num_inference_steps"] = self.options.steps
        return body

    def note(self, outcome: Outcome) -> None:
        """Keep an outcome; the last one ends the run."""
        self.outcomes.append(outcome)
        if len(self.outcomes) == len(self.rows):
            self.environment.runner.quit()

    def add_spent(self, headers: Any) -> None:
        """Add the device time an answer says it took, where the service tells."""
        spent = [headers.get(name) for name in SPENT_HEADERS]
        if None not in spent:
            self.spent_gpu_seconds = (self.spent_gpu_seconds or 0.0) + sum(float(value) for value in spent)

    def save(self, row: LogRow, picture: bytes) -> str | None:
        """Write a picture if that was asked for, and return its file name."""
        if not self.options.save_images:
            return None
        folder = Path(self.options.save_images)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"{row.line:06d}.png"
        (folder / name).write_bytes(picture)
        return name

    def report(self) -> None:
        """Print the figures, and write them where that was asked for."""
        outcomes = sorted(self.outcomes, key=lambda one: (one.intended, one.line))
        summary = summarise(outcomes, self.spent_gpu_seconds)
        sys.stdout.write(f"\nReplay of {self.options.log}\n{render(summary)}\n")
        if len(self.outcomes) < len(self.rows):
            sys.stdout.write(f"stopped early: {len(self.rows) - len(self.outcomes)} requests were not finished\n")
        if self.options.report:
            names = ("log", "speed", "limit", "cache_mode", "seed_column", "steps", "host", "num_users")
            options = {name: getattr(self.options, name) for name in names}
            write_report(Path(self.options.report), summary, outcomes, options)


def replay_log(user: "ReplayUser") -> None:
    """The one task of a user: send what is to be sent, then stop."""
    replay = user.environment.replay
    if replay is None:
        raise StopUser
    if replay.timed:
        user.send_at_times(replay)
    else:
        user.send_in_turn(replay)
    raise StopUser


class ReplayUser(FastHttpUser):  # type: ignore[misc]  # locust is untyped here
    """A client; several of them share the rows of a log, whatever way it is replayed."""

    concurrency = 4096
    connection_timeout = 30.0
    tasks: ClassVar = [replay_log]

    def __init__(self, environment: Environment) -> None:
        self.network_timeout = environment.parsed_options.answer_timeout
        super().__init__(environment)

    def send_at_times(self, replay: Replay) -> None:
        """Open loop: start every request when it is due, without waiting for the ones before."""
        on_the_way = Group()
        while (row := replay.try_take()) is not None:
            due = replay.due(row)
            gevent.sleep(max(0.0, due - replay.now))
            on_the_way.spawn(self._send, replay, row, due)
        on_the_way.join()

    def send_in_turn(self, replay: Replay) -> None:
        """Closed loop: the next request after the last answer."""
        while (row := replay.try_take()) is not None:
            self._send(replay, row, replay.now)

    def _send(self, replay: Replay, row: LogRow, intended: float) -> None:
        sent = replay.now
        with self.client.post(ROUTE, json=replay.body(row), catch_response=True, name=ROUTE) as response:
            finished = replay.now
            try:
                answer = read_answer(response.status_code, response.content or b"")
            except BadAnswer as error:
                response.failure(str(error))
                outcome = Outcome(row.line, row.prompt, row.user, row.kind, intended, sent, finished, str(error))
            else:
                response.success()
                replay.add_spent(response.headers)
                outcome = _answered(row, intended, sent, finished, answer, replay.save(row, answer.picture))
        replay.note(outcome)


def check(environment: Environment, **_: Any) -> None:
    """Before anything starts: a bad log or option ends the run with one clear line."""
    if isinstance(environment.runner, MasterRunner | WorkerRunner):
        # One process keeps the log's order; several would each replay all of it.
        _refuse("a replay runs in one process; leave out --master, --worker and --processes")
    try:
        Replay(environment)
    except (PromptLogError, ValueError) as error:
        _refuse(str(error))


def start(environment: Environment, **_: Any) -> None:
    """Read the log anew: the web interface may have changed the options since the check."""
    environment.replay = None
    environment.replay = Replay(environment)


def stop(environment: Environment, **_: Any) -> None:
    """Report."""
    if environment.replay is not None:
        environment.replay.report()


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(2)


def _check_options(options: Any) -> None:
    if not (math.isfinite(options.speed) and options.speed > 0):
        raise ValueError("--speed must be above 0")
    if options.limit < 0 or options.steps < 0:
        raise ValueError("--limit and --steps must not be negative")


def _answered(
    row: LogRow, intended: float, sent: float, finished: float, answer: Answer, image: str | None
) -> Outcome:
    cache = answer.cache
    return Outcome(
        line=row.line,
        prompt=row.prompt,
        user=row.user,
        kind=row.kind,
        intended=intended,
        sent=sent,
        finished=finished,
        verdict=cache["verdict"],
        reason=cache.get("reason"),
        steps=cache["steps"],
        skipped=cache["skipped_steps"],
        wasted=cache.get("wasted_steps", 0),
        similarity=cache.get("similarity"),
        saved_gpu_seconds=cache.get("saved_gpu_seconds", 0.0),
        seed=answer.seed,
        image=image,
    )


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(check)
events.test_start.add_listener(start)
events.test_stop.add_listener(stop)
