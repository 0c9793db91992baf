"""`POST /v1/images/generations`: OpenAI's Images API."""

import asyncio
import time
from collections.abc import Awaitable
from typing import Annotated, TypeVar

from fastapi import APIRouter, Header, Request, Response

from service.api.bodies import answer_of
from service.api.dependencies import ServiceOf
from service.api.documented import GENERATION_ERRORS
from service.api.errors import ClientGoneError, InvalidRequestError
from service.api.schema import GenerationAnswer, GenerationBody
from service.api.verdict_headers import cache_label, headers_of
from service.api.wishes import Order, order_of
from service.generator import Generator, Picture

router = APIRouter()
Result = TypeVar("Result")


@router.post(
    "/v1/images/generations",
    response_model=GenerationAnswer,
    responses=GENERATION_ERRORS,
    summary="Draw pictures",
)
async def generate(
    body: GenerationBody,
    request: Request,
    service: ServiceOf,
    cache_control: Annotated[str, Header(max_length=500)] = "",
) -> Response:
    """Draw `n` pictures and return them with what the cache did for each."""
    started = time.perf_counter()
    if body.partial_images:
        raise InvalidRequestError("partial_images", "partial_images: only POST /v1/generations/events sends previews")
    order = order_of(body, cache_control, service.info, service.settings)
    with service.generator.turnstile.enter(len(order.requests)):
        pictures = await unless_gone(request, _draw_all(service.generator, order))
    request.state.cache_label = cache_label(pictures)
    answer: GenerationAnswer = answer_of(pictures, order, int(time.time()))
    headers = headers_of(pictures, time.perf_counter() - started)
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)


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
