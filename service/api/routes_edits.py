"""`POST /v1/images/edits` and `/v1/images/variations`: pictures drawn over a given one."""

import time

from fastapi import APIRouter, Request, Response

from service.access import Identity
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import ACCEPTED_JOB, EDIT_ERRORS, IMAGE_ANSWER_ONLY
from service.api.forms import read_form
from service.api.header_words import Asked, AskedOf
from service.api.idempotency import once_of
from service.api.routes_images import answered, unless_gone
from service.api.schema import GenerationAnswer
from service.api.schema_edits import EditBody, VariationBody, form_of
from service.api.wishes import deadline_of, order_of, wished_size
from service.assembly import Service
from service.engine.reference import Reference

router = APIRouter()
_IMAGE = "The picture to begin from: PNG, JPEG or WebP."
_MASK = "Of the picture's size, fully transparent where it is to be drawn anew; the rest is kept."


@router.post(
    "/v1/images/edits",
    response_model=GenerationAnswer,
    responses={**EDIT_ERRORS, **IMAGE_ANSWER_ONLY, **ACCEPTED_JOB},
    summary="Draw over a picture",
    openapi_extra=form_of(EditBody, image=_IMAGE, mask=_MASK),
)
async def edit(request: Request, service: ServiceOf, identity: IdentityOf, asked: AskedOf) -> Response:
    """Noise a picture as far as `strength` says and draw on from there: all of it, or where `mask` is transparent."""
    return await _drawn(request, service, identity, ("image", "mask"), EditBody, asked)


@router.post(
    "/v1/images/variations",
    response_model=GenerationAnswer,
    responses={**EDIT_ERRORS, **IMAGE_ANSWER_ONLY, **ACCEPTED_JOB},
    summary="Draw variations of a picture",
    openapi_extra=form_of(VariationBody, image=_IMAGE),
)
async def vary(request: Request, service: ServiceOf, identity: IdentityOf, asked: AskedOf) -> Response:
    """As an edit, without a text unless `prompt` gives one."""
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
    route = f"{request.scope['route'].path} {reference.name}"
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
