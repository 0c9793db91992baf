"""`POST /v1/images/edits` and `/v1/images/variations`: pictures drawn over a given one."""

from typing import Annotated

from fastapi import APIRouter, Header, Request, Response

from service.access import Identity
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import ACCEPTED_JOB, EDIT_ERRORS, IMAGE_ANSWER_ONLY
from service.api.forms import Form, read_form
from service.api.header_words import CACHE_CONTROL, IDEMPOTENCY_KEY
from service.api.idempotency import once_of
from service.api.routes_images import Asked, answered
from service.api.schema import GenerationAnswer
from service.api.schema_edits import EditBody, VariationBody, form_of
from service.api.wishes import order_of, wished_size
from service.assembly import Service

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
    form = await read_form(request, ("image", "mask"))
    asked = Asked(EDITS, cache_control, idempotency_key, prefer)
    return await _drawn(request, service, identity, form, form.body(EditBody), asked)


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
    form = await read_form(request, ("image",))
    asked = Asked(VARIATIONS, cache_control, idempotency_key, prefer)
    return await _drawn(request, service, identity, form, form.body(VariationBody), asked)


async def _drawn(
    request: Request, service: Service, identity: Identity, form: Form, body: EditBody, asked: Asked
) -> Response:
    size = wished_size(body.size, service.info)
    image, mask = form.take("image"), form.files.get("mask")
    reference = await service.darkroom.reference(image, mask, body.strength, size)
    order = order_of(body, asked.cache_control, service.info, service.settings, identity, reference=reference)
    # The picture is part of what makes the request the same.
    route = f"{asked.route} {reference.name}"
    once = once_of(asked.idempotency_key, route, body, order, service.guard.version)
    return await answered(request, service, order, body, once, asked.prefer)
