"""`POST /v1/generations/events`: one picture, watched step by step."""

import asyncio
import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from service.api.bodies import completed_event, plan_event, text_of
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import GENERATION_ERRORS
from service.api.errors import InvalidRequestError
from service.api.header_words import CacheControl
from service.api.schema import WatchBody
from service.api.streams import Event, EventStream
from service.api.wishes import lora_set, order_of
from service.engine.base import Progress
from service.generator import GenerationEvent
from service.pictures import encode_preview
from service.types import Plan

router = APIRouter()
DEFAULT_PREVIEWS = 6


@router.post(
    "/v1/generations/events",
    responses={**GENERATION_ERRORS, 200: {"content": {"text/event-stream": {}}, "description": "The events."}},
    response_class=StreamingResponse,
    summary="Draw one picture and watch it",
)
async def watch(
    body: WatchBody,
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    cache_control: CacheControl = "",
) -> StreamingResponse:
    """Stream `queued`, `plan`, `progress`…, then `completed` or `error`; hanging up cancels the picture."""
    if body.n not in (None, 1):
        raise InvalidRequestError("n", "n: only one picture at a time can be watched")
    if body.stream:
        raise InvalidRequestError("stream", "stream: POST /v1/images/generations streams OpenAI's events")
    if body.response_format == "url":
        raise InvalidRequestError("response_format", "response_format: must be b64_json here")
    previews = DEFAULT_PREVIEWS if body.partial_images is None else body.partial_images
    loras = await lora_set(body, service.info, service.loras)
    wishes = (body, cache_control, service.info, service.settings)
    order = order_of(*wishes, identity, previews=previews, loras=loras)
    queued = {"request_id": request.state.request_id, "steps": order.requests[0].steps}
    return _Watched(service.generator, order, request, ("queued", queued))


class _Watched(EventStream):
    """Tells everything: the plan, every step, the picture."""

    async def tell(self, event: GenerationEvent) -> Event:
        if isinstance(event, Plan):
            return "plan", plan_event(event)
        if isinstance(event, Progress):
            return "progress", await _progress(event)
        return "completed", completed_event(event, self.order, int(time.time())).model_dump()


async def _progress(event: Progress) -> dict[str, Any]:
    data: dict[str, Any] = {"step": event.step, "steps": event.steps, "first_step": event.first_step}
    if event.preview is not None:
        data["preview_b64"] = text_of(await asyncio.to_thread(encode_preview, event.preview))
    return data
