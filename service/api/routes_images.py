"""`POST /v1/images/generations`: OpenAI's Images API, at once or as a stream."""

import asyncio
import time
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import APIRouter, Request, Response

from service.api.bodies import answer_of, image_completed, image_partial
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import ACCEPTED_JOB, IMAGE_ANSWER, IMAGE_ERRORS
from service.api.errors import ClientGoneError, InvalidRequestError
from service.api.header_words import AskedOf
from service.api.idempotency import Once, answered_once, once_of
from service.api.job_orders import accept
from service.api.picture_urls import absolute, keep_all
from service.api.schema import GenerationAnswer, GenerationBody
from service.api.streams import Event, EventStream
from service.api.verdict_headers import cache_label, headers_of
from service.api.wishes import Order, check_streaming, lora_set, order_of
from service.assembly import Service
from service.engine.base import Progress
from service.generator import GenerationEvent, Generator, Picture
from service.pictures import encode

router = APIRouter()
Result = TypeVar("Result")


@router.post(
    "/v1/images/generations",
    response_model=GenerationAnswer,
    responses={**IMAGE_ERRORS, **IMAGE_ANSWER, **ACCEPTED_JOB},
    summary="Draw pictures",
)
async def generate(
    body: GenerationBody,
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    asked: AskedOf,
) -> Response:
    """Draw `n` pictures and return them with what the cache did for each, or stream one with `stream: true`.

    With `Prefer: respond-async` the answer is a job, as that of `POST /v1/jobs`.
    """
    check_streaming(body)
    loras = await lora_set(body, service.info, service.loras)
    previews = body.partial_images or 0
    wishes = (body, asked.cache_control, service.info, service.settings)
    order = order_of(*wishes, identity, previews=previews, loras=loras)
    once = once_of(asked.idempotency_key, "/v1/images/generations", body, order, service.guard.version)
    if body.stream:
        if once is not None:
            raise InvalidRequestError("idempotency-key", "idempotency-key: not with stream: true")
        return _ImageStream(service.generator, order, request)
    return await answered(request, service, order, body, once, asked.prefer)


async def answered(
    request: Request, service: Service, order: Order, body: GenerationBody, once: Once | None, prefer: str
) -> Response:
    """Return the pictures of an order, or the job that draws them, or the answer given before.

    Args:
        request: the HTTP request.
        service: draws.
        order: what to draw.
        body: what was asked.
        once: the idempotency key; None = there is none.
        prefer: the header `Prefer`.
    """

    async def make() -> Response:
        if wants_job(prefer):
            return await _as_job(request, service, order, body)
        return await _drawn(request, service, order)

    return await answered_once(once, service.store.deposits, service.metrics.idempotent, make)


def wants_job(prefer: str) -> bool:
    """Return whether a `Prefer` header (RFC 7240) asks for an answer before the work is done."""
    return any(part.partition(";")[0].strip().lower() == "respond-async" for part in prefer.split(","))


async def _as_job(request: Request, service: Service, order: Order, body: GenerationBody) -> Response:
    answer = await accept(request, service, order, inline=body.response_format == "b64_json")
    answer.headers["Preference-Applied"] = "respond-async"
    return answer


async def _drawn(request: Request, service: Service, order: Order) -> Response:
    started = time.perf_counter()
    with service.generator.turnstile.enter(len(order.requests)):
        pictures = await unless_gone(request, _draw_all(service.generator, order))
    request.state.cache_label = cache_label(pictures)
    urls = None
    if order.by_url:
        kept = await keep_all(service.store.deposits, pictures, order, service.guard.version)
        urls = [absolute(request, url) for url in kept]
    answer = answer_of(pictures, order, int(time.time()), urls)
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
