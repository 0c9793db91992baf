"""Between the wire and the job desk: what a job is to do, and how it is shown."""

import asyncio
import base64
import time
from typing import Any

from fastapi import Request, Response

from cache_store.store import CacheStore
from service.api.bodies import answer_of, text_of
from service.api.errors import InvalidRequestError, log_unexpected, problem_of
from service.api.picture_urls import absolute, keep_all, kept_data, prompt_of
from service.api.schema import ErrorDetail, PictureBody
from service.api.schema_jobs import JobBody, JobResult, ProgressBody, WebhookBody
from service.api.wishes import Order
from service.assembly import Service
from service.generator import Picture
from service.jobs.desk import JobOrder
from service.jobs.state import JobError, JobState
from service.jobs.targets import TargetError, Targets
from service.safety import Guard, PictureFlaggedError, PictureUncheckedError

ACCEPTED = 202


async def accept(
    request: Request, service: Service, order: Order, *, inline: bool = False, webhook: str | None = None
) -> Response:
    """Take a job and answer where it is found.

    Raises:
        QueueFullError: too many pictures wait.
    """
    state = await service.jobs.submit(_order(request.state.request_id, service, order, inline, webhook))
    body = await job_body(state, request, service, order.requests[0].tenant)
    headers = {"Location": f"/v1/jobs/{state.id}", "Retry-After": "1"}
    return Response(body.model_dump_json(), ACCEPTED, headers, "application/json")


def checked_webhook(wish: WebhookBody | None, targets: Targets) -> str | None:
    """Return the URL of a webhook. Raises InvalidRequestError: it may not be reached from here."""
    if wish is None:
        return None
    if targets.empty:
        raise InvalidRequestError("webhook", "webhook: this service has none", code="webhooks_off")
    try:
        targets.parse(wish.url)
    except TargetError as error:
        raise InvalidRequestError("webhook.url", f"webhook.url: {error}", code="webhook_not_allowed") from None
    return wish.url


async def job_body(
    state: JobState, request: Request, service: Service, tenant: str, *, with_result: bool = True
) -> JobBody:
    """Return `tenant`'s job as clients see it."""
    store, guard = service.store, service.guard
    result = None
    if with_result and state.result is not None:
        result = JobResult.model_validate(state.result)
        items = await asyncio.gather(
            *(
                _inline(item, store, guard, tenant) if state.inline else _linked(item, request, store, guard, tenant)
                for item in result.data
            )
        )
        result = result.model_copy(update={"data": list(items)})
    return JobBody(
        id=state.id,
        status=state.status,
        version=state.version,
        created=state.created,
        started=state.started,
        finished=state.finished,
        expires=(state.finished or time.time()) + store.deposits.bounds.seconds,
        queue_position=state.queue_position,
        progress=[ProgressBody(**picture.model_dump()) for picture in state.progress],
        result=result,
        error=None if state.error is None else ErrorDetail(**state.error.model_dump()),
    )


def _order(request_id: str, service: Service, order: Order, inline: bool, webhook: str | None) -> JobOrder:
    async def finish(pictures: list[Picture]) -> dict[str, Any]:
        urls = await keep_all(service.store.deposits, pictures, order, service.guard.version)
        return _without_prompts(answer_of(pictures, order, int(time.time()), urls).model_dump(mode="json"))

    def explain(error: Exception) -> JobError:
        problem = problem_of(error, request_id)
        if problem.code == "internal_error":
            log_unexpected(error, request_id)
        return JobError(**problem.body["error"])

    return JobOrder(order.requests, order.wish, finish, explain, inline=inline, webhook=webhook)


def _without_prompts(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer that may be kept: the entry a source names can be deleted, and its prompt with it."""
    for item in answer["data"]:
        if item["cache"]["source"] is not None:
            item["cache"]["source"]["prompt"] = None
    return answer


async def _linked(item: PictureBody, request: Request, store: CacheStore, guard: Guard, tenant: str) -> PictureBody:
    return item.model_copy(update={"url": absolute(request, await _may_be_shown(item, store, guard, tenant))})


async def _may_be_shown(item: PictureBody, store: CacheStore, guard: Guard, tenant: str) -> str:
    """Return a picture's URL; of one that holds the picture itself nothing is left where that may not be shown."""
    url = item.url or ""
    if not url.startswith("data:") or not guard.version:
        return url
    try:
        prompt = await prompt_of(store, item.id, tenant)
        await guard.pass_stored(base64.b64decode(url.partition("base64,")[2]), prompt, "")
    except (PictureFlaggedError, PictureUncheckedError):
        return "data:,"
    return url


async def _inline(item: PictureBody, store: CacheStore, guard: Guard, tenant: str) -> PictureBody:
    url = await _may_be_shown(item, store, guard, tenant)
    if url.startswith("data:"):
        return item.model_copy(update={"url": None, "b64_json": url.partition("base64,")[2]})
    found = await store.deposits.find("image", item.id, tenant)
    try:
        data = None if found is None else await kept_data(store, found, guard, tenant)
    except (PictureFlaggedError, PictureUncheckedError):
        data = None
    return item.model_copy(update={"url": None, "b64_json": None if data is None else text_of(data)})
