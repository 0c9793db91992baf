"""One process, one event loop: uvicorn around the application."""

import contextlib
import signal
from ipaddress import ip_address
from types import FrameType

import uvicorn

from service import logs
from service.access import list_keys
from service.api.app import create_app
from service.api.connections import BoundedConnection
from service.assembly import MakeEngine
from service.engine import make_engine
from service.settings import Settings


class NotGuardedError(Exception):
    """The service would be open to whoever reaches it; the message is one clear line."""


def check_guarded(settings: Settings) -> None:
    """Refuse to listen beyond loopback without keys, unless the settings say so.

    Raises:
        NotGuardedError: it would be open.
        KeyringError: the key file cannot be read.
    """
    if settings.allow_anonymous or _is_loopback(settings.host) or list_keys(settings.keys_path):
        return
    raise NotGuardedError(
        f"HEADSTART_HOST={settings.host} can be reached from elsewhere, and there is no API key: make one with "
        "`headstart keys create --tenant NAME`, or set HEADSTART_ALLOW_ANONYMOUS=true"
    )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


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
