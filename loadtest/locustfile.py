"""Replay a prompt log against a running service.

    python -m locust -f loadtest/locustfile.py --headless --host http://127.0.0.1:8000
    python -m locust -f loadtest/locustfile.py --headless --host … --log prompts.csv --speed 4 --control --out report

A log with times, or any log with `--arrivals`, is replayed *open loop*: every request starts when it is due, however
slow the service is, and latency counts from that intended start. A log without times is replayed *closed loop*:
`--users` clients take the next prompt as soon as they have their last answer. See docs/loadtest.md.
"""

import sys
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import gevent
from gevent.pool import Group
from locust import FastHttpUser, events
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner

from loadtest.options import add_options, read_choices
from loadtest.player import Player
from loadtest.prompt_log import PromptLogError
from loadtest.replay import INVALID, Following, Inbox, Leading, end_run, is_worker
from loadtest.sending import Sender

BAD_OPTION = 2


def replay_log(user: "ReplayUser") -> None:
    """The one task of a user: send what is to be sent in each run, then stop."""
    replay = user.environment.replay
    if replay is None or replay.player is None:
        raise StopUser
    choices, player = replay.choices, replay.player
    pictures = choices.given["save_images"]
    for run in player.runs():
        folder = Path(pictures) if pictures and run == 0 else None
        sender = Sender(
            user.client, player.clock.now, choices.modes[run][1], choices.tenants, choices.patience, folder
        )
        if choices.timed:
            user.send_at_times(player, run, sender)
        else:
            user.send_in_turn(player, run, sender)
    raise StopUser


class ReplayUser(FastHttpUser):  # type: ignore[misc]  # locust is untyped here
    """A client; several of them share the rows of a log, whatever way it is replayed."""

    concurrency = 4096
    connection_timeout = 30.0
    max_retries = 0
    tasks: ClassVar = [replay_log]

    def __init__(self, environment: Environment) -> None:
        self.network_timeout = environment.parsed_options.answer_timeout
        super().__init__(environment)

    def send_at_times(self, player: Player, run: int, sender: Sender) -> None:
        """Open loop: start every request when it is due, without waiting for the ones before."""
        on_the_way = Group()
        while (request := player.try_take(run)) is not None:
            gevent.sleep(max(0.0, (request.due or 0.0) - player.clock.now()))
            on_the_way.spawn(lambda one: player.note(sender.send(one)), request)
        on_the_way.join()

    def send_in_turn(self, player: Player, run: int, sender: Sender) -> None:
        """Closed loop: the next request after the last answer."""
        while (request := player.try_take(run)) is not None:
            player.note(sender.send(request))


def check(environment: Environment, **_: Any) -> None:
    """Before anything starts: a bad log or option ends the run with one clear line."""
    environment.replay = None
    if is_worker(environment):
        environment.inbox = Inbox(environment)  # its options come from the master
        return
    try:
        read_choices(environment.parsed_options)
    except (PromptLogError, ValueError) as error:
        _refuse(str(error))
    if isinstance(environment.runner, MasterRunner):
        options = environment.parsed_options
        options.num_users = max(
            options.num_users or 1, options.expect_workers
        )  # a worker without a user sends nothing


def start(environment: Environment, **_: Any) -> None:
    """Read the log anew: the web interface may have changed the options since the check."""
    environment.replay = None
    if is_worker(environment):
        environment.replay = Following(environment, environment.inbox.take_dealt())
        return
    ReplayUser.host = environment.host or ReplayUser.host
    try:
        environment.replay = Leading(environment, ReplayUser(environment).client)
    except (PromptLogError, ValueError) as error:
        sys.stderr.write(f"error: {error}\n")
        environment.process_exit_code = BAD_OPTION
        gevent.spawn(end_run, environment)


def stop(environment: Environment, **_: Any) -> None:
    """Report."""
    if environment.replay is not None:
        environment.replay.report()


def leave(environment: Environment, **_: Any) -> None:
    """Locust settles its exit code before it stops a replay that was interrupted."""
    if isinstance(environment.replay, Leading) and not environment.replay.reported:
        environment.process_exit_code = INVALID


def _refuse(reason: str) -> NoReturn:
    sys.stderr.write(f"error: {reason}\n")
    sys.exit(BAD_OPTION)


events.init_command_line_parser.add_listener(add_options)
events.init.add_listener(check)
events.test_start.add_listener(start)
events.test_stop.add_listener(stop)
events.quitting.add_listener(leave)
