"""Before a body that holds pictures is read: is there a place for what it asks for, and room for its bytes?"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.api.errors import problem_of
from service.api.middleware import UPLOADS
from service.refusals import RefusedError
from service.upload_room import Stay, UploadRoom


class UploadGate:
    """Refuses uploads before the framework reads them, which for JSON it does before any route is asked.

    Args:
        app: the layer below.
        room: bounds the bytes of uploads in memory.
        most_bytes: of one body.
    """

    def __init__(self, app: ASGIApp, room: UploadRoom, most_bytes: int) -> None:
        self._app = app
        self._room = room
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        size = self._size(scope)
        if not size:
            await self._app(scope, receive, send)
            return
        try:
            stay = self._admit(scope, size)
        except RefusedError as error:
            scope["state"]["refused"] = error.reason
            await problem_of(error, scope["state"]["request_id"]).answer(scope, receive, send)
            return
        with stay:
            scope["state"]["upload"] = stay
            await self._app(scope, receive, send)

    def _admit(self, scope: Scope, size: int) -> Stay:
        scope["app"].state.service.generator.turnstile.check(1)
        return self._room.take(scope["state"]["identity"].tenant, size)

    def _size(self, scope: Scope) -> int:
        """Return the most bytes of pictures that will be read."""
        if scope["type"] != "http" or scope["method"] != "POST" or not UPLOADS.fullmatch(scope["path"]):
            return 0
        headers = Headers(scope=scope)
        told = headers.get("content-length", "")
        if "transfer-encoding" not in headers and not told:
            return 0
        return min(int(told), self._most_bytes) if told.isascii() and told.isdigit() else self._most_bytes
