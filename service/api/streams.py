"""One picture on its way as server-sent events: what both streaming routes share."""

import json
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.errors import log_unexpected, problem_of
from service.api.wishes import Order
from service.generator import GenerationEvent, Generator, Picture

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
Event = tuple[str, dict[str, Any]]
"""An event's name and its data."""


class EventStream(StreamingResponse, ABC):
    """Draws one picture while it is being sent; hanging up cancels it at its next step.

    It holds a place in the queue meanwhile. The answer starts when the plan is made and let in: until then a refusal
    has its ordinary status. What fails before the start is an
    ordinary error answer, what fails later is the last event.

    Args:
        generator: draws.
        order: one picture.
        request: the HTTP request.
        opening: events to send at once.
    """

    def __init__(self, generator: Generator, order: Order, request: Request, *opening: Event) -> None:
        self.order = order
        self._request = request
        self.events = generator.stream(order.requests[0], order.wish)
        self._turnstile = generator.turnstile
        self._opening = opening
        self._text = self._lines()
        super().__init__(self._text, media_type="text/event-stream", headers=HEADERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer."""
        with self._turnstile.enter(1):
            async with aclosing(self.events), aclosing(self._text):
                self._plan = await anext(self.events)
                await super().__call__(scope, receive, send)

    @abstractmethod
    async def tell(self, event: GenerationEvent) -> Event | None:
        """Return what the client is told of an event, None for nothing."""

    async def _lines(self) -> AsyncGenerator[str, None]:
        try:
            for opening in self._opening:
                yield _line(*opening)
            if (told := await self.tell(self._plan)) is not None:
                yield _line(*told)
            async for event in self.events:
                if isinstance(event, Picture):
                    self._request.state.cache_label = event.verdict.kind.value
                if (told := await self.tell(event)) is not None:
                    yield _line(*told)
        except Exception as error:
            yield _line("error", self._problem(error))

    def _problem(self, error: Exception) -> dict[str, Any]:
        request_id = self._request.state.request_id
        problem = problem_of(error, request_id)
        if problem.code == "internal_error":
            log_unexpected(error, request_id)
        return problem.body


def _line(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"
