"""The engine process: `python -m service.engine.child FD`, started by `ProcessEngine` only.

Speaks over the socket it inherits, which only its parent holds the other end of. It ignores SIGINT and SIGTERM,
because the parent decides when it ends, and it never outlives the parent.
"""

import ctypes
import logging
import os
import queue
import signal
import sys
import threading
from multiprocessing.connection import Connection

import torch

from service import logs
from service.engine.base import EngineStartError
from service.engine.loading import load_configured
from service.engine.messages import Ready, Refused, Setup
from service.engine.worker import Inbox, make_loop, serve

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1


def main(descriptor: int) -> int:
    """Load the model, report, and run the loop until told to stop.

    Args:
        descriptor: the inherited socket.

    Returns:
        The exit status.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    connection = Connection(descriptor)
    setup: Setup = connection.recv()
    _die_with(setup.parent)
    config = setup.config
    logs.configure(config.log_level)
    logging.captureWarnings(True)
    if config.threads > 0:
        torch.set_num_threads(config.threads)
    try:
        pipeline = load_configured(config)
    except EngineStartError as error:
        connection.send(Refused(str(error)))
        return 1
    connection.send(Ready(pipeline.info))
    inbox: Inbox = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(connection, inbox), daemon=True).start()
    try:
        serve(make_loop(pipeline, config), inbox, connection.send)
    except Exception as error:  # the parent starts another; a traceback here would not be a line of JSON
        log.error("the engine's loop broke", extra=logs.fields_of(error))
        # At once: a decoder that hangs in the device's driver would hold up an orderly exit.
        logging.shutdown()
        os._exit(1)
    return 0


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent goes (Linux; elsewhere the closed socket must do)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _pump(connection: Connection, inbox: Inbox) -> None:
    while True:
        try:
            inbox.put(connection.recv())
        except (EOFError, OSError):
            # The parent is gone and nobody wants the pictures: leave at once, even in mid-step.
            os._exit(0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
