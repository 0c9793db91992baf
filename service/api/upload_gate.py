"""Before a body that holds pictures is read: is there a place for what it asks for, and room for its bytes?

What was answered before under the same `Idempotency-Key` needs no place: nothing is drawn for it. But whether it is
the same request only its body tells, since the pictures in it are part of what makes it the same. So while there is
no place, or no room, a body whose key has a stored answer is read into a reserve of one body's size.
"""

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.access import Identity
from service.api.errors import problem_of
from service.api.idempotency import HEADER, is_answered
from service.api.middleware import KEYED_UPLOADS, upload_route
from service.assembly import Service
from service.refusals import RefusedError
from service.upload_room import Stay, UploadRoom


class UploadGate:
    """Refuses uploads before the framework reads them, which for JSON it does before any route is asked.

    Args:
        app: the layer below.
        room: bounds the bytes of uploads in memory.
        most_bytes: of one body, and of all that are read for a stored answer while there is no room.
    """

    def __init__(self, app: ASGIApp, room: UploadRoom, most_bytes: int) -> None:
        self._app = app
        self._room = room
        self._reserve = UploadRoom(most_bytes)
        self._most_bytes = most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one ASGI connection."""
        size = self._size(scope)
        if not size:
            await self._app(scope, receive, send)
            return
        try:
            stay = await self._admit(scope, size)
        except RefusedError as error:
            scope["state"] |= {"refused": error.reason, "route": upload_route(scope["path"])}
            await problem_of(error, scope["state"]["request_id"]).answer(scope, receive, send)
            return
        with stay:
            scope["state"]["upload"] = stay
            await self._app(scope, receive, send)

    async def _admit(self, scope: Scope, size: int) -> Stay:
        service: Service = scope["app"].state.service
        identity: Identity = scope["state"]["identity"]
        try:
            service.generator.turnstile.check(1)
            return self._room.take(identity.tenant, size)
        except RefusedError:
            if not await self._is_answered(scope, service, identity):
                raise
        return self._reserve.take(identity.tenant, size)

    async def _is_answered(self, scope: Scope, service: Service, identity: Identity) -> bool:
        if upload_route(scope["path"]) not in KEYED_UPLOADS:
            return False
        key = Headers(scope=scope).get(HEADER, "")
        return await is_answered(key, identity.tenant, service.guard.version, service.store.deposits)

    def _size(self, scope: Scope) -> int:
        """Return the most bytes of pictures that will be read."""
        if scope["type"] != "http" or scope["method"] != "POST" or upload_route(scope["path"]) is None:
            return 0
        headers = Headers(scope=scope)
        told = headers.get("content-length", "")
        if "transfer-encoding" not in headers and not told:
            return 0
        return min(int(told), self._most_bytes) if told.isascii() and told.isdigit() else self._most_bytes
