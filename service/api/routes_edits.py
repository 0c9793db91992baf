"""`POST /v1/images/edits` and `/v1/images/variations`: pictures drawn over a given one."""

import time
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from service.access import Identity
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import ACCEPTED_JOB, EDIT_ERRORS, IMAGE_ANSWER_ONLY
from service.api.forms import read_form
from service.api.header_words import CACHE_CONTROL, IDEMPOTENCY_KEY
from service.api.idempotency import once_of
from service.api.routes_images import Asked, answered, unless_gone
from service.api.schema import GenerationAnswer
from service.api.schema_edits import EditBody, VariationBody, form_of
from service.api.wishes import deadline_of, order_of, wished_size
from service.assembly import Service
from service.engine.reference import Reference

router = APIRouter()
CacheControl = Annotated[str, Header(max_length=500, description=CACHE_CONTROL)]
Key = Annotated[str, Header(max_length=300, description=IDEMPOTENCY_KEY)]
Prefer = Annotated[str, Header(max_length=500, description="`respond-async`: a job (RFC 7240).")]
EDITS, VARIATIONS = "/v1/images/edits", "/v1/images/variations"
_IMAGE = "The picture to begin from: PNG, JPEG or WebP."
_MASK = "Of the picture's size, fully transparent where it is to be drawn anew; the rest is kept."


@router.post(
    EDITS,
    response_model=GenerationAnswer,
    responses={**EDIT_ERRORS, **IMAGE_ANSWER_ONLY, **ACCEPTED_JOB},
    summary="Draw over a picture",
    openapi_extra=form_of(EditBody, image=_IMAGE, mask=_MASK),
)
async def edit(
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    cache_control: CacheControl = "",
    idempotency_key: Key = "",
    prefer: Prefer = "",
) -> Response:
    """Noise a picture as far as `strength` says and draw on from there: all of it, or where `mask` is transparent."""
    asked = Asked(EDITS, cache_control, idempotency_key, prefer)
    return await _drawn(request, service, identity, ("image", "mask"), EditBody, asked)


@router.post(
    VARIATIONS,
    response_model=GenerationAnswer,
    responses={**EDIT_ERRORS, **IMAGE_ANSWER_ONLY, **ACCEPTED_JOB},
    summary="Draw variations of a picture",
    openapi_extra=form_of(VariationBody, image=_IMAGE),
)
async def vary(
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    cache_control: CacheControl = "",
    idempotency_key: Key = "",
    prefer: Prefer = "",
) -> Response:
    """As an edit, without a text unless `prompt` gives one."""
    asked = Asked(VARIATIONS, cache_control, idempotency_key, prefer)
    return await _drawn(request, service, identity, ("image",), VariationBody, asked)


async def _drawn(
    request: Request,
    service: Service,
    identity: Identity,
    files: tuple[str, ...],
    schema: type[EditBody],
    asked: Asked,
) -> Response:
    since = time.monotonic()
    body, reference = await _given(request, service, identity, files, schema, since)
    if "upload" in request.scope["state"]:
        request.state.upload.release()
    wishes = (body, asked.cache_control, service.info, service.settings)
    order = order_of(*wishes, identity, reference=reference, since=since)
    # The picture is part of what makes the request the same.
    route = f"{asked.route} {reference.name}"
    once = once_of(asked.idempotency_key, route, body, order, service.guard.version)
    return await answered(request, service, order, body, once, asked.prefer)


async def _given(
    request: Request,
    service: Service,
    identity: Identity,
    files: tuple[str, ...],
    schema: type[EditBody],
    since: float,
) -> tuple[EditBody, Reference]:
    """Return what was sent, decoded; the files as they were sent are gone when this is left."""
    form = await read_form(request, files)
    body = form.body(schema)
    decoded = service.darkroom.reference(
        form.take("image"),
        form.files.get("mask"),
        body.strength,
        wished_size(body.size, service.info),
        tenant=identity.tenant,
        deadline=deadline_of(body, service.settings, since),
    )
    return body, await unless_gone(request, decoded)
