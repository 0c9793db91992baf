"""`POST /v1/generations/events`: one picture as server-sent events."""

import asyncio
import base64
import json
import math
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api.bodies import completed_event, plan_event
from service.api.dependencies import ServiceOf
from service.api.documented import GENERATION_ERRORS
from service.api.errors import InvalidRequestError, log_unexpected, problem_of
from service.api.schema import GenerationBody
from service.api.wishes import Order, order_of
from service.engine.base import Progress
from service.generator import GenerationEvent, Generator
from service.pictures import encode_preview
from service.turnstile import Turnstile
from service.types import Plan

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
router = APIRouter()
DEFAULT_PREVIEWS = 6


@router.post(
    "/v1/generations/events",
    responses={**GENERATION_ERRORS, 200: {"content": {"text/event-stream": {}}, "description": "The events."}},
    response_class=StreamingResponse,
    summary="Draw one picture and watch it",
)
async def watch(
    body: GenerationBody,
    request: Request,
    service: ServiceOf,
    cache_control: Annotated[str, Header(max_length=500)] = "",
) -> StreamingResponse:
    """Stream `queued`, `plan`, `progress`…, then `completed` or `error`; hanging up cancels the picture."""
    if body.n not in (None, 1):
        raise InvalidRequestError("n", "n: only one picture at a time can be watched")
    order = with_previews(order_of(body, cache_control, service.info, service.settings), body.partial_images)
    return _EventStream(_Watched(service.generator, order, request), service.generator.turnstile)


def with_previews(order: Order, wanted: int | None) -> Order:
    """Spread the wanted number of previews over the steps."""
    previews = DEFAULT_PREVIEWS if wanted is None else wanted
    every = math.ceil(order.requests[0].steps / (previews + 1)) if previews else 0
    return replace(order, wish=replace(order.wish, preview_every=every))


class _EventStream(StreamingResponse):
    """Holds a place in the queue for as long as it is being sent; a full queue still answers 429."""

    def __init__(self, watched: "_Watched", turnstile: Turnstile) -> None:
        super().__init__(watched.lines(), media_type="text/event-stream", headers=HEADERS)
        self._turnstile = turnstile

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._turnstile.enter(1):
            await super().__call__(scope, receive, send)


@dataclass(frozen=True)
class _Watched:
    """One picture on its way, as text."""

    generator: Generator
    order: Order
    request: Request

    async def lines(self) -> AsyncGenerator[str, None]:
        """Yield the events' text."""
        wanted = self.order.requests[0]
        yield _event("queued", {"request_id": self.request.state.request_id, "steps": wanted.steps})
        try:
            async with aclosing(self.generator.stream(wanted, self.order.wish)) as events:
                async for event in events:
                    yield await self._line(event)
        except Exception as error:
            problem = problem_of(error, self.request.state.request_id)
            if problem.code == "internal_error":
                log_unexpected(error, self.request.state.request_id)
            yield _event("error", problem.body)

    async def _line(self, event: GenerationEvent) -> str:
        if isinstance(event, Plan):
            return _event("plan", plan_event(event))
        if isinstance(event, Progress):
            return _event("progress", await _progress(event))
        self.request.state.cache_label = event.verdict.kind.value
        return _event("completed", completed_event(event, self.order, int(time.time())).model_dump())


async def _progress(event: Progress) -> dict[str, Any]:
    data: dict[str, Any] = {"step": event.step, "steps": event.steps, "first_step": event.first_step}
    if event.preview is not None:
        preview = await asyncio.to_thread(encode_preview, event.preview)
        data["preview_b64"] = base64.b64encode(preview).decode("ascii")
    return data


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n"
