"""`/v1/generations/{id}`: how a picture came about, and the same picture again."""

import asyncio
import base64
import binascii
import time
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from cache_store.generations import GenerationRecord
from service.access import Identity
from service.api.bodies import text_of
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import HEATMAP_ANSWERS, REPLAY_ERRORS
from service.api.errors import InvalidRequestError
from service.api.provenance_bodies import Source, record_body
from service.api.routes_images import unless_gone
from service.api.schema import Text
from service.api.schema_generations import GenerationBodyRecord, ReplayAnswer, ReplayBody
from service.assembly import Service
from service.heatmaps import Of
from service.pictures import encode
from service.provenance import Provenance, parse
from service.replay import NotReplayableError, Texts

router = APIRouter()
GenerationId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$")]
# A lineage is shown up to here; states of longer ones are not kept by default.
MOST_SHOWN = 100
MAX_LOOKED_FOR = 2000
"""Characters of a text in a query."""


@router.get("/v1/generations/{generation_id}", responses=REPLAY_ERRORS, summary="How a picture came about")
async def record(service: ServiceOf, identity: IdentityOf, generation_id: GenerationId) -> GenerationBodyRecord:
    """Return the record of an answered picture; another tenant's is as absent as a missing one."""
    found, provenance = await _found(service, identity, generation_id)
    lineage = [] if provenance.hidden else await _lineage(service, provenance)
    return record_body(found, provenance, lineage)


@router.post("/v1/generations/{generation_id}/replay", responses=REPLAY_ERRORS, summary="The same picture again")
async def replay(
    request: Request,
    service: ServiceOf,
    identity: IdentityOf,
    generation_id: GenerationId,
    body: ReplayBody | None = None,
) -> ReplayAnswer:
    """Draw a picture again exactly as it was drawn; nothing of it is remembered, nor counted as a hit or a saving."""
    found, provenance = await _found(service, identity, generation_id)
    texts = Texts() if body is None else await unless_gone(request, _texts(service, body, provenance))
    with service.generator.turnstile.enter(1), service.guard.expecting(service.generator.admission.drawn):
        made = await unless_gone(request, service.replayer.replay(found, texts))
        # The record's own text, or the one that was held to its digest: never another.
        await service.guard.pass_drawn(made.image, texts.prompt if provenance.prompt is None else provenance.prompt)
    return ReplayAnswer(
        id=generation_id,
        b64_json=text_of(await asyncio.to_thread(encode, made.image)),
        identical=made.identical,
        max_difference=made.max_difference,
        sha256=made.sha256,
        recorded_sha256=made.provenance.sha256,
        runs=made.runs,
        differing_versions=list(made.differing),
    )


@router.get(
    "/v1/generations/{generation_id}/heatmap",
    responses=HEATMAP_ANSWERS,
    response_class=Response,
    summary="Which part of a picture speaks for its prompt",
)
async def heatmap(
    service: ServiceOf,
    identity: IdentityOf,
    generation_id: GenerationId,
    of: Annotated[
        Of, Query(description="The picture answered, or the one whose state it was resumed from.")
    ] = "result",
    text: Annotated[
        Text | None,
        Query(min_length=1, max_length=MAX_LOOKED_FOR, description="What to look for; absent: its prompt."),
    ] = None,
) -> Response:
    """Return where the service's judge looks; drawn while no picture is in work, so it may have to wait a little."""
    found, provenance = await _found(service, identity, generation_id)
    png = await service.heatmaps.draw(found, provenance, of, text)
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=3600"})


async def _texts(service: Service, body: ReplayBody, provenance: Provenance) -> Texts:
    if body.image is None:
        return Texts(body.prompt, body.negative_prompt)
    if provenance.reference is None:
        raise InvalidRequestError("image", "image: this picture was not drawn over another")
    image, mask = _bytes("image", body.image), None if body.mask is None else _bytes("mask", body.mask)
    size = (provenance.width, provenance.height)
    strength = provenance.reference.strength
    deadline = time.monotonic() + service.settings.deadline_seconds
    tenant = provenance.tenant
    reference = await service.darkroom.reference(
        image, mask, strength, lambda width, height: size, tenant=tenant, deadline=deadline
    )
    return Texts(body.prompt, body.negative_prompt, reference)


def _bytes(param: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise InvalidRequestError(param, f"{param}: must be base64") from None


async def _found(service: Service, identity: Identity, generation_id: str) -> tuple[GenerationRecord, Provenance]:
    found = await service.replayer.find(generation_id, identity.tenant)
    if found is None:
        raise HTTPException(404)
    provenance = parse(found.body)
    if provenance is None:
        raise NotReplayableError("record_unreadable", "another version of the service wrote this record")
    return found, provenance


async def _lineage(service: Service, provenance: Provenance) -> list[Source]:
    """Return the runs a picture descends from, nearest first, as far as there are records of them."""
    sources: list[Source] = []
    entry_id, skip = _source_of(provenance)
    while entry_id is not None and len(sources) < MOST_SHOWN:
        maker = await service.store.maker_of(entry_id, provenance.tenant)
        made = None if maker is None else parse(maker.body)
        sources.append(Source(entry_id, skip, made))
        entry_id, skip = (None, 0.0) if made is None else _source_of(made)
    return sources


def _source_of(provenance: Provenance) -> tuple[int | None, float]:
    if provenance.entered is not None:
        return provenance.entered.entry_id, provenance.entered.skip
    return provenance.repeats, 1.0
