"""`/v1/images/{id}`: finished pictures by URL."""

import json
from typing import Annotated

from fastapi import APIRouter, Header, Path, Response
from starlette.exceptions import HTTPException

from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import LOOKUP_ERRORS, PICTURE
from service.api.picture_urls import kept_data
from service.api.schema import PictureDeleted

router = APIRouter()
PictureId = Annotated[str, Path(pattern=r"^[0-9a-f]{32}$", description="The `id` of a picture.")]


async def only_post() -> Response:
    """Refuse; without this route the name would be taken for a picture's id."""
    raise HTTPException(405, headers={"Allow": "POST"})


for _name in ("generations", "edits", "variations"):
    router.add_api_route(f"/v1/images/{_name}", only_post, methods=["GET", "HEAD", "DELETE"], include_in_schema=False)


@router.get(
    "/v1/images/{picture_id}", responses={**LOOKUP_ERRORS, **PICTURE}, response_class=Response, summary="A picture"
)
async def picture(
    service: ServiceOf,
    identity: IdentityOf,
    picture_id: PictureId,
    if_none_match: Annotated[str, Header(max_length=2000, description="ETags seen before.")] = "",
) -> Response:
    """Return a picture asked for by URL or drawn by a job; another tenant's is as absent as a missing one."""
    found = await service.store.deposits.find("image", picture_id, identity.tenant)
    if found is None:
        raise HTTPException(404)
    tag = f'"{found.sha256[:32]}"'
    headers = {"ETag": tag, "Cache-Control": f"private, max-age={int(found.seconds_left)}, immutable"}
    if _matches(if_none_match, tag):
        return Response(status_code=304, headers=headers)
    data = await kept_data(service.store, found, service.guard, identity.tenant)
    if data is None:
        raise HTTPException(404)
    return Response(data, media_type=json.loads(found.body)["media_type"], headers=headers)


router.add_api_route("/v1/images/{picture_id}", picture, methods=["HEAD"], include_in_schema=False)


@router.delete("/v1/images/{picture_id}", responses=LOOKUP_ERRORS, summary="Delete a picture")
async def delete(service: ServiceOf, identity: IdentityOf, picture_id: PictureId) -> PictureDeleted:
    """Delete the copy that is kept for its URL; what the cache remembers of its generation stays."""
    if not await service.store.deposits.drop("image", picture_id, identity.tenant):
        raise HTTPException(404)
    return PictureDeleted(id=picture_id)


def _matches(header: str, tag: str) -> bool:
    """Return whether `If-None-Match` names the tag; weak comparison (RFC 9110 §13.1.2)."""
    tags = [part.strip().removeprefix("W/") for part in header.split(",")]
    return tag in tags or tags == ["*"]
