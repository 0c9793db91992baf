"""What the cache remembers: entries and their pictures, of the client's own tenant only."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from cache_store.selection import Selection
from cache_store.types import EntrySummary
from service.api.cursors import descent_cursor, descent_place, entry_cursor, entry_place
from service.api.deletions import filter_of, selection_of
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import LOOKUP_ERRORS
from service.api.provenance_bodies import descendant_body
from service.api.schema import DeletionQuery, EntriesDeleted, EntryBody, EntryDeleted, EntryList, EntryQuery
from service.api.schema_generations import DescendantList
from service.provenance import parse

router = APIRouter()
EntryId = Annotated[str, Path(pattern=r"^[0-9]{1,19}$")]
LARGEST_ID = 2**63 - 1


@router.get("/v1/cache/entries", responses=LOOKUP_ERRORS, summary="Entries")
async def entries(
    request: Request, service: ServiceOf, identity: IdentityOf, query: Annotated[EntryQuery, Query()]
) -> EntryList:
    """Return a page of the remembered generations that meet every criterion given, newest first."""
    names = [name for name, _ in request.query_params.multi_items()]
    wanted = filter_of(query, names, identity.tenant)
    after = entry_place(query.cursor)
    found, place = await service.store.browse(identity.tenant, wanted, after=after, limit=query.limit)
    cursor = None if place is None else entry_cursor(place)
    return EntryList(data=[_body(entry) for entry in found], has_more=place is not None, next_cursor=cursor)


@router.get("/v1/cache/entries/{entry_id}", responses=LOOKUP_ERRORS, summary="One entry")
async def entry(service: ServiceOf, identity: IdentityOf, entry_id: EntryId) -> EntryBody:
    """Return one remembered generation; another tenant's is as absent as a missing one."""
    found = await service.store.entry(_number(entry_id), identity.tenant)
    if found is None:
        raise HTTPException(404)
    return _body(found)


@router.get(
    "/v1/cache/entries/{entry_id}/image",
    responses={**LOOKUP_ERRORS, 200: {"content": {"image/png": {}}, "description": "The picture."}},
    response_class=Response,
    summary="The picture of an entry",
)
async def image(service: ServiceOf, identity: IdentityOf, entry_id: EntryId) -> Response:
    """Return the stored picture; it never changes."""
    found = await service.guard.entry_image(service.store, _number(entry_id), identity.tenant)
    if found is None:
        raise HTTPException(404)
    headers = {"Cache-Control": "private, max-age=86400, immutable"}
    return Response(found.data, media_type="image/png", headers=headers)


@router.get("/v1/cache/entries/{entry_id}/generations", responses=LOOKUP_ERRORS, summary="What came from an entry")
async def descendants(
    service: ServiceOf,
    identity: IdentityOf,
    entry_id: EntryId,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    cursor: Annotated[str, Query(max_length=100)] = "",
) -> DescendantList:
    """Return the client's own generations that resumed from an entry or repeated its picture, newest first.

    They are known as long as there are records of them; their entry itself may be gone.
    """
    number, before = _number(entry_id), descent_place(cursor)
    found, place = await service.store.descendants(number, identity.tenant, before=before, limit=limit)
    if not found and await service.store.entry(number, identity.tenant) is None:
        raise HTTPException(404)
    parsed = [(record, parse(record.body)) for record in found]
    told = [descendant_body(record, made) for record, made in parsed if made is not None]
    next_cursor = None if place is None else descent_cursor(place)
    return DescendantList(data=told, has_more=place is not None, next_cursor=next_cursor)


@router.delete("/v1/cache/entries/{entry_id}", responses=LOOKUP_ERRORS, summary="Delete one entry")
async def delete_one(service: ServiceOf, identity: IdentityOf, entry_id: EntryId) -> EntryDeleted:
    """Forget one remembered generation: noise states, picture, prompt."""
    number = _number(entry_id)
    if not await service.store.forget(Selection(tenant=identity.tenant, entry_ids=(number,))):
        raise HTTPException(404)
    return EntryDeleted(id=str(number))


@router.delete("/v1/cache/entries", responses=LOOKUP_ERRORS, summary="Delete entries")
async def delete_many(
    request: Request, service: ServiceOf, identity: IdentityOf, query: Annotated[DeletionQuery, Query()]
) -> EntriesDeleted:
    """Forget the generations that meet every criterion given; at least one is needed, or `all=true`.

    Jobs that meet them are cancelled and forgotten, too, with their pictures.
    Returns once none of them can be found any more, which may take a while for many.
    """
    names = [name for name, _ in request.query_params.multi_items()]
    selection = selection_of(query, names, identity.tenant)
    await service.jobs.forget(selection)  # first: what still runs would leave more to forget
    return EntriesDeleted(deleted=await service.store.forget(selection))


def _number(entry_id: str) -> int:
    number = int(entry_id)
    if number > LARGEST_ID:
        raise HTTPException(404)
    return number


def _body(entry: EntrySummary) -> EntryBody:
    return EntryBody(
        id=str(entry.entry_id),
        prompt=entry.prompt,
        created=entry.created,
        seed=entry.seed,
        steps=entry.steps,
        depth=entry.depth,
        states=[state.skip for state in entry.states],
        approximated_states=[state.skip for state in entry.states if state.approximated],
        expires=entry.expires,
        uses=entry.uses,
        has_image=entry.has_image,
        public=entry.public,
    )
