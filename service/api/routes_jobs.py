"""`/v1/jobs`: pictures that are asked for now and fetched later."""

import base64
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException

from service.api.cursors import job_cursor, job_place
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import ACCEPTED_JOB, JOB_ERRORS, JOB_EVENTS, LOOKUP_ERRORS
from service.api.errors import InvalidRequestError, problem_of
from service.api.header_words import CacheControl, IdempotencyKey
from service.api.idempotency import answered_once, once_of
from service.api.job_orders import accept, checked_webhook, job_body
from service.api.schema_jobs import JobBody, JobDeleted, JobList, JobRequest, PreviewBody
from service.api.streams import HEADERS
from service.api.wishes import lora_set, order_of
from service.assembly import Service
from service.jobs.live import Preview
from service.jobs.state import JobState, JobStatus

router = APIRouter()
JobId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
_KEEP_ALIVE_EVERY = 15
_RETRY_MILLISECONDS = 1000


@router.post(
    "/v1/jobs",
    status_code=202,
    response_model=JobBody,
    responses={**JOB_ERRORS, **ACCEPTED_JOB},
    summary="Take a job",
)
async def submit(
    body: JobRequest,
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    cache_control: CacheControl = "",
    idempotency_key: IdempotencyKey = "",
) -> Response:
    """Draw `n` pictures without keeping the client waiting; the answer tells where the job is found."""
    if body.stream:
        raise InvalidRequestError("stream", "stream: GET /v1/jobs/{id}/events streams")
    webhook = checked_webhook(body.webhook, service.jobs.postman.targets)
    loras = await lora_set(body, service.info, service.loras)
    wishes = (body, cache_control, service.info, service.settings)
    order = order_of(*wishes, identity, previews=body.partial_images or 0, loras=loras)
    once = once_of(idempotency_key, "/v1/jobs", body, order, service.guard.version)

    async def make() -> Response:
        return await accept(request, service, order, inline=body.response_format == "b64_json", webhook=webhook)

    return await answered_once(once, service.store.deposits, service.metrics.idempotent, make)


@router.get("/v1/jobs", responses=LOOKUP_ERRORS, summary="Jobs")
async def jobs(
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=100)] = "",
    status: Annotated[JobStatus | None, Query(description="Only those that are there now.")] = None,
) -> JobList:
    """Return one's own jobs, newest first, without results; with `status` a page may hold fewer than `limit`."""
    found = await service.jobs.page(identity.tenant, below=job_place(cursor), limit=limit)
    shown = [state for _, state in found if status is None or state.status is status]
    more = len(found) == limit
    return JobList(
        data=[await job_body(state, request, service, identity.tenant, with_result=False) for state in shown],
        has_more=more,
        next_cursor=job_cursor(found[-1][0]) if more else None,
    )


@router.get("/v1/jobs/{job_id}", responses=LOOKUP_ERRORS, summary="One job")
async def job(request: Request, service: ServiceOf, identity: IdentityOf, job_id: JobId) -> JobBody:
    """Return a job, and its result once it has succeeded; another tenant's is as absent as a missing one."""
    state = await _found(service, job_id, identity.tenant)
    return await job_body(state, request, service, identity.tenant)


@router.post("/v1/jobs/{job_id}/cancel", responses=LOOKUP_ERRORS, summary="Cancel a job")
async def cancel(request: Request, service: ServiceOf, identity: IdentityOf, job_id: JobId) -> JobBody:
    """Cancel a job at its next step and return how it stands; one that has ended stays as it is."""
    state = await service.jobs.cancel(job_id, identity.tenant)
    if state is None:
        raise HTTPException(404)
    return await job_body(state, request, service, identity.tenant)


@router.delete("/v1/jobs/{job_id}", responses=LOOKUP_ERRORS, summary="Delete a job")
async def delete(service: ServiceOf, identity: IdentityOf, job_id: JobId) -> JobDeleted:
    """Cancel a job if it has not ended, and forget it and the pictures of its result."""
    if not await service.jobs.delete(job_id, identity.tenant):
        raise HTTPException(404)
    return JobDeleted(id=job_id)


@router.get(
    "/v1/jobs/{job_id}/events",
    responses={**LOOKUP_ERRORS, **JOB_EVENTS},
    response_class=StreamingResponse,
    summary="Watch a job",
)
async def events(
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    job_id: JobId,
    last_event_id: Annotated[str, Header(max_length=100, description="Of the last event seen.")] = "",
) -> Response:
    """Stream the job as it is now and after every change, until it has ended; hanging up changes nothing.

    Every `job` event is complete, so nothing is lost by one that was missed. With `Last-Event-ID` what was seen last
    is not repeated; 204 tells a client that has seen the end to come back no more.
    """
    state = await _found(service, job_id, identity.tenant)
    seen = int(last_event_id) if last_event_id.isascii() and last_event_id.isdigit() else 0
    if state.status.final and state.version == seen:
        return Response(status_code=204)
    stream = _Stream(request, service, identity.tenant, job_id, seen)
    return StreamingResponse(stream.lines(), media_type="text/event-stream", headers=HEADERS)


class _Stream:
    """One client that watches one job."""

    def __init__(self, request: Request, service: Service, tenant: str, job_id: str, seen: int) -> None:
        self._request, self._service, self._tenant, self._job_id = request, service, tenant, job_id
        self._seen = seen
        self._preview: Preview | None = None

    async def lines(self) -> AsyncGenerator[str, None]:
        """Yield the text of events."""
        yield f"retry: {_RETRY_MILLISECONDS}\n\n"
        quiet, ended = 0, False
        try:
            async with aclosing(self._service.jobs.follow(self._job_id, self._tenant)) as news:
                async for found in news:
                    quiet = quiet + 1 if found is None else 0
                    ended = found is not None and found[0].status.final
                    if found is not None:
                        for line in await self._told(*found):
                            yield line
                    elif quiet % _KEEP_ALIVE_EVERY == 0:
                        yield ": still there\n\n"
            if not ended:
                yield self._error(HTTPException(404))
        except Exception as error:
            yield self._error(error)

    async def _told(self, state: JobState, preview: Preview | None) -> list[str]:
        lines = []
        if preview is not None and preview is not self._preview:
            self._preview = preview
            data = base64.b64encode(preview.data).decode()
            body = PreviewBody(picture=preview.picture, step=preview.step, b64_json=data)
            lines.append(f"event: preview\ndata: {body.model_dump_json()}\n\n")
        if state.version != self._seen:
            self._seen = state.version
            shown = await job_body(state, self._request, self._service, self._tenant)
            lines.append(f"id: {state.version}\nevent: job\ndata: {shown.model_dump_json()}\n\n")
        return lines

    def _error(self, error: Exception) -> str:
        problem = problem_of(error, self._request.state.request_id)
        return f"event: error\ndata: {json.dumps(problem.body)}\n\n"


async def _found(service: Service, job_id: str, tenant: str) -> JobState:
    state = await service.jobs.find(job_id, tenant)
    if state is None:
        raise HTTPException(404)
    return state
