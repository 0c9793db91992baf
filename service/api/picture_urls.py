"""Pictures that are fetched by URL: kept for a while under the id of their generation."""

import asyncio
import base64
import json
import re
from collections.abc import Sequence

from fastapi import Request

from cache_store.deposits import Deposit, Deposits
from cache_store.store import CacheStore
from cache_store.types import CacheUnavailable
from service.api.wishes import Order
from service.generator import Picture
from service.pictures import OutputFormat
from service.provenance import parse
from service.safety import Guard

PATH = "/v1/images/"
_AUTHORITY = re.compile(r"[A-Za-z0-9.-]+(:\d{1,5})?|\[[0-9A-Fa-f:.]+\](:\d{1,5})?")


def media_type(output_format: OutputFormat) -> str:
    """Return the media type of an encoding."""
    return f"image/{output_format}"


async def keep_all(deposits: Deposits, pictures: Sequence[Picture], order: Order, safety_version: str) -> list[str]:
    """Keep pictures and return the path of each; a picture that cannot be kept is its own `data:` URL."""
    return list(await asyncio.gather(*(_keep(deposits, picture, order, safety_version) for picture in pictures)))


async def _keep(deposits: Deposits, picture: Picture, order: Order, safety_version: str) -> str:
    request = order.requests[0]
    kind = media_type(order.output_format)
    try:
        about = (picture.generation, request.tenant, json.dumps({"media_type": kind, "safety": safety_version}))
        await deposits.create("image", *about, user=request.user, data=picture.data)
    except CacheUnavailable:
        return f"data:{kind};base64,{base64.b64encode(picture.data).decode()}"
    return PATH + picture.generation


async def kept_data(store: CacheStore, found: Deposit, guard: Guard, tenant: str) -> bytes | None:
    """Return `tenant`'s kept picture that may be shown, None where it is gone; raises as `Guard.pass_stored`."""
    data = await store.deposits.data(found)
    version = json.loads(found.body).get("safety", "")
    if data is not None and version != guard.version:
        await guard.pass_stored(data, await prompt_of(store, found.name, tenant), version)
    return data


async def prompt_of(store: CacheStore, generation: str, tenant: str) -> str | None:
    """Return what was to be drawn, None where no record tells it any more."""
    record = await store.generation(generation, tenant)
    made = None if record is None else parse(record.body)
    return None if made is None else made.prompt


def absolute(request: Request, url: str) -> str:
    """Return the URL at which the client reaches a path of this service, if its Host header can be believed."""
    authority = request.headers.get("host", "")
    if not url.startswith("/") or not _AUTHORITY.fullmatch(authority):
        return url
    return f"{request.url.scheme}://{authority}{url}"
