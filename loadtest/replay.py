"""A replay in one of Locust's processes: alone, as master, or as worker."""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import gevent
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtest.conductor import Conductor, LocalCast, Take
from loadtest.options import read_choices
from loadtest.player import Clock, Player
from loadtest.prompt_log import PromptLogError
from loadtest.report import Report, make_report, render_report, write_json
from loadtest.schedule import digest_of, share_of
from loadtest.sending import Sender
from loadtest.workers import BEGIN, FINISHED, OUTCOMES, READY, SHARE, Courier, RemoteCast, read_outcomes

INVALID = 3


class Leading:
    """The replay where it is led and reported: alone, or as master.

    Args:
        environment: Locust's.
        client: an HTTP session of Locust's, for the requests that stand alone.
    """

    def __init__(self, environment: Environment, client: Any) -> None:
        self.player: Player | None = None
        self.reported = False
        self.choices = read_choices(environment.parsed_options)
        self._environment = environment
        self._facts: dict[str, Any] = {}
        self._stopped: str | None = "stopped early"
        sender = Sender(client, Clock().now, "off", self.choices.tenants, self.choices.patience)
        takes = [Take(name, mode) for name, mode in self.choices.modes]
        probes = self.choices.probes
        cast = self._cast(takes)
        alone = sender if probes else None
        load = self.choices.given["load"]
        self._conductor = Conductor(self.choices.schedule, takes, cast, alone, probes, load, self._end)
        self._sender = sender
        self._greenlet = gevent.spawn(self._lead)
        self._greenlet.link_exception(lambda _: self._end("the replay broke off"))

    def _cast(self, takes: list[Take]) -> LocalCast | RemoteCast:
        runner = self._environment.runner
        if not isinstance(runner, MasterRunner):
            local = LocalCast()
            self.player = local.player = Player(
                self.choices.schedule,
                len(takes),
                arrived=local.arrived.set,
                emit=lambda run, outcome: self._conductor.note(run, [outcome]),
                finished=lambda run, stalls: self._conductor.finish(run, stalls),
            )
            return local
        if runner.target_user_count < len(runner.clients.ready):
            raise ValueError("--users must be at least the number of workers")
        remote = RemoteCast(runner, digest_of(self.choices.schedule))
        self._take_messages(runner, remote)
        remote.deal()
        return remote

    def _take_messages(self, runner: Any, remote: RemoteCast) -> None:
        # Locust takes one listener per message; the web interface may start several replays after each other.
        for kind, take in (
            (READY, lambda environment, msg: remote.take_ready(msg.node_id, msg.data)),
            (OUTCOMES, lambda environment, msg: self._conductor.note(msg.data["run"], read_outcomes(msg.data))),
            (FINISHED, lambda environment, msg: self._conductor.finish(msg.data["run"], msg.data["stalls"])),
        ):
            runner.custom_messages.pop(kind, None)
            runner.register_message(kind, take)

    def _lead(self) -> None:
        begun = datetime.now(UTC).isoformat(timespec="seconds")
        self._facts = {"begun": begun}
        if (complaint := self._sender.complaint()) is not None:
            self._end(complaint)
            return
        self._facts |= self._sender.facts()
        self._conductor.conduct()

    def _end(self, stopped: str | None) -> None:
        self._stopped = stopped
        end_run(self._environment)

    def report(self) -> None:
        """Print the figures, write them where that was asked for, and set the exit code."""
        self.reported = True
        if self.player is not None:
            self.player.stop()
        conductor, given = self._conductor, self.choices.given
        report = make_report(self.choices, conductor.takes, conductor.standalone, self._facts, self._stopped)
        sys.stdout.write(f"\nReplay of {given['log']}\n{render_report(report)}\n")
        if given["report"]:
            write_json(Path(given["report"]), report)
        if given["out"]:
            _write_pages(report, Path(given["out"]))
        if not report.valid and (report.runs[0].outcomes or not self._environment.runner.errors):
            # Where the first requests failed, those that stood alone, Locust's own exit code says so.
            self._environment.process_exit_code = INVALID
        if gevent.getcurrent() is not self._greenlet:
            self._greenlet.kill(block=False)


class Following:
    """A worker: sends its share.

    Args:
        environment: Locust's.
        dealt: share and shares, or None for a worker that came too late to be given one.
    """

    def __init__(self, environment: Environment, dealt: tuple[int, int] | None) -> None:
        self.player: Player | None = None
        self._courier: Courier | None = None
        self._runner = environment.runner
        if dealt is None:
            return
        try:
            self.choices = read_choices(environment.parsed_options)
        except (PromptLogError, ValueError) as error:
            self._runner.send_message(READY, {"fault": str(error), "digest": None})
            return
        self._courier = Courier(self._runner)
        ready = {"fault": None, "digest": digest_of(self.choices.schedule)}
        self.player = Player(
            share_of(self.choices.schedule, *dealt),
            len(self.choices.modes),
            arrived=lambda: self._runner.send_message(READY, ready),
            emit=self._courier.emit,
            finished=self._courier.finished,
        )

    def begin(self, data: dict[str, Any]) -> None:
        """Start a run when the master says so."""
        if self.player is not None:
            self.player.begin(data["run"], data["delay"], data["stretch"])

    def report(self) -> None:
        """Send what is left."""
        if self.player is not None:
            self.player.stop()
        if self._courier is not None:
            self._courier.stop()


class Inbox:
    """A worker's messages from the master, which may come before Locust has started the run."""

    def __init__(self, environment: Environment) -> None:
        self._dealt: tuple[int, int] | None = None
        self._environment = environment
        runner = environment.runner
        runner.register_message(SHARE, self._take_share)
        runner.register_message(BEGIN, self._take_begin)

    def take_dealt(self) -> tuple[int, int] | None:
        """Return the share that was dealt for the next replay, once."""
        dealt, self._dealt = self._dealt, None
        return dealt

    def _take_share(self, environment: Environment, msg: Any) -> None:
        self._dealt = (msg.data["share"], msg.data["shares"])

    def _take_begin(self, environment: Environment, msg: Any) -> None:
        if environment.replay is not None:
            environment.replay.begin(msg.data)


def end_run(environment: Environment) -> None:
    """End the run: Locust itself goes on for ever. The web interface stays."""
    if environment.parsed_options.headless:
        environment.runner.quit()
    else:
        environment.runner.stop()


def is_worker(environment: Environment) -> bool:
    """Whether this process is one of Locust's workers."""
    return isinstance(environment.runner, WorkerRunner)


def _write_pages(report: Report, folder: Path) -> None:
    # Imported here: drawing needs matplotlib, which a worker and a replay without pages do not.
    from loadtest.pages import write_pages

    write_pages(report, folder)
    sys.stdout.write(f"Written to {folder}: report.html, report.md, report.json\n")
