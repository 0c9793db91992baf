"""Who may come in: every route but the probes and the page needs a key, once there is one."""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Keyring
from service.api.errors import UNAUTHORIZED
from service.api.page import is_page

PROBES = ("/livez", "/readyz", "/startupz")
METRICS = "/metrics"


class Gate:
    """Asks for a key before anything is routed, so that no route can forget to; notes whose the request is.

    Args:
        app: the layer below.
        keyring: the keys in force.
        open_metrics: whether `/metrics` needs none. Its figures are sums over all tenants.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, *, open_metrics: bool) -> None:
        self._app = app
        self._keyring = keyring
        self._open = (*PROBES, METRICS) if open_metrics else PROBES

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        identity = self._keyring.identify(Headers(scope=scope).get("authorization"))
        if identity is None and not self._is_open(scope["path"]):
            if scope["type"] == "http":
                await UNAUTHORIZED.answer(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        scope.setdefault("state", {})["identity"] = identity
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        return path in self._open or is_page(path)
