"""The parent's end of one engine process: start it, talk to it, notice its end."""

import os
import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from service.engine.config import EngineConfig
from service.engine.messages import Command, Report, Setup


class ChildLink:
    """One engine process and the private socket to it.

    A plain subprocess, not multiprocessing's spawn, which would run the parent's main module again in the child.
    Must be made on a thread that lives as long as the child may: the kernel ties the child to its parent *thread*.

    Args:
        config: what the child shall load.
        receive: takes every report; called on a thread of this link.
        lost: called once, on that thread, when the child has gone.
    """

    def __init__(self, config: EngineConfig, receive: Callable[[Report], None], lost: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.engine.child", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            )
        self._connection = Connection(ours.detach())
        self._outbox: queue.SimpleQueue[Setup | Command | None] = queue.SimpleQueue()
        self._outbox.put(Setup(config, os.getpid()))
        self._threads = [
            threading.Thread(target=self._read, args=(receive, lost), name="engine-reader", daemon=True),
            threading.Thread(target=self._write, name="engine-writer", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def post(self, command: Command) -> None:
        """Send a command; never blocks, and is silent if the child has gone (`lost` tells)."""
        self._outbox.put(command)

    def end(self, timeout: float = 0.0) -> int:
        """Wait for the child to go, kill it after `timeout` seconds, free everything; return its exit status.

        Blocks; call it off the event loop when `timeout` is not 0. Not from the link's own callbacks.
        """
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._outbox.put(None)
        for thread in self._threads:
            thread.join()
        self._connection.close()
        return status

    def _read(self, receive: Callable[[Report], None], lost: Callable[[], None]) -> None:
        while True:
            try:
                report: Any = self._connection.recv()
            except (EOFError, OSError):
                lost()
                return
            receive(report)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self._connection.send(message)
            except OSError:
                return
