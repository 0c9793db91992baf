"""`POST /v1/images/generations`: OpenAI's Images API, at once or as a stream."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Request, Response

from service.api.bodies import answer_of, image_completed, image_partial
from service.api.dependencies import ServiceOf
from service.api.documented import GENERATION_ERRORS, IMAGE_STREAM
from service.api.errors import ClientGoneError
from service.api.schema import GenerationAnswer, GenerationBody
from service.api.streams import Event, EventStream
from service.api.verdict_headers import cache_label, headers_of
from service.api.wishes import Order, check_streaming, lora_set, order_of
from service.engine.base import Progress
from service.generator import GenerationEvent, Generator, Picture
from service.pictures import encode

router = APIRouter()
Result = TypeVar("Result")


@router.post(
    "/v1/images/generations",
    response_model=GenerationAnswer,
    responses={**GENERATION_ERRORS, **IMAGE_STREAM},
    summary="Draw pictures",
)
async def generate(
    body: GenerationBody,
    request: Request,
    service: ServiceOf,
    cache_control: Annotated[str, Header(max_length=500)] = "",
) -> Response:
    """Draw `n` pictures and return them with what the cache did for each, or stream one with `stream: true`."""
    started = time.perf_counter()
    check_streaming(body)
    loras = await lora_set(body, service.info, service.loras)
    previews = body.partial_images or 0
    order = order_of(body, cache_control, service.info, service.settings, previews=previews, loras=loras)
    if body.stream:
        return _ImageStream(service.generator, order, request)
    with service.generator.turnstile.enter(len(order.requests)):
        pictures = await unless_gone(request, _draw_all(service.generator, order))
    request.state.cache_label = cache_label(pictures)
    answer: GenerationAnswer = answer_of(pictures, order, int(time.time()))
    headers = headers_of(pictures, time.perf_counter() - started)
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)


class _ImageStream(EventStream):
    """Tells what OpenAI's clients know: pictures in progress, and the picture."""

    _partials = 0

    async def tell(self, event: GenerationEvent) -> Event | None:
        created = int(time.time())
        if isinstance(event, Picture):
            completed = image_completed(event, self.order, created)
            return completed.type, completed.model_dump()
        if not isinstance(event, Progress) or event.preview is None:
            return None
        wish = self.order.wish
        data = await asyncio.to_thread(encode, event.preview, wish.output_format, wish.compression)
        partial = image_partial(data, self._partials, self.order, created)
        self._partials += 1
        return partial.type, partial.model_dump()


async def _draw_all(generator: Generator, order: Order) -> list[Picture]:
    """Draw all pictures in one joint batch; the first failure cancels the rest."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(generator.generate(wanted, order.wish)) for wanted in order.requests]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


async def unless_gone(request: Request, work: Awaitable[Result]) -> Result:
    """Return the result of `work`; cancel it as soon as the client closes the connection.

    Raises:
        ClientGoneError: the client closed the connection.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError
        return task.result()
    finally:
        for pending in (task, watcher):
            pending.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
