"""One process, one event loop: uvicorn around the application."""

import contextlib
import signal
from types import FrameType

import uvicorn

from service import logs
from service.api.app import create_app
from service.api.connections import BoundedConnection
from service.assembly import MakeEngine
from service.engine import make_engine
from service.settings import Settings


def run_server(settings: Settings, engine: MakeEngine = make_engine) -> bool:
    """Serve until SIGTERM or SIGINT, let running requests finish, and say whether it ever got to serve."""
    logs.configure(settings.log_level)
    config = uvicorn.Config(
        create_app(settings, engine),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        http=BoundedConnection,
        ws="none",
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    server = uvicorn.Server(config)
    with contextlib.suppress(_Stopped):
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _stop)
        server.run()
    return server.started


class _Stopped(Exception):
    """A signal asked the process to end."""


def _stop(number: int, frame: FrameType | None) -> None:
    # uvicorn has its own handlers while it serves. When it is done it raises the signal again, to end the
    # process by it; an orderly stop is a success, and a signal before it serves needs no order.
    raise _Stopped
