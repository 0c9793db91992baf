"""One process, one event loop: uvicorn around the application."""

import uvicorn

from service import logs
from service.api.app import create_app
from service.settings import Settings


def run_server(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT, let running requests finish, and say whether it ever got to serve."""
    logs.configure(settings.log_level)
    config = uvicorn.Config(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=round(settings.drain_seconds),
    )
    server = uvicorn.Server(config)
    server.run()
    return server.started
