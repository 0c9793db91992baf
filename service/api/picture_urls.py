"""Pictures that are fetched by URL: kept for a while under the id of their generation."""

import asyncio
import base64
import json
import re
from collections.abc import Sequence

from fastapi import Request

from cache_store.deposits import Deposit, Deposits
from cache_store.types import CacheUnavailable
from service.api.wishes import Order
from service.generator import Picture
from service.pictures import OutputFormat
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


async def kept_data(deposits: Deposits, found: Deposit, guard: Guard) -> bytes | None:
    """Return a kept picture that may be shown, None where it is gone; raises as `Guard.pass_stored`."""
    data = await deposits.data(found)
    if data is not None:
        await guard.pass_stored(data, None, json.loads(found.body).get("safety", ""))
    return data


def absolute(request: Request, url: str) -> str:
    """Return the URL at which the client reaches a path of this service, if its Host header can be believed."""
    authority = request.headers.get("host", "")
    if not url.startswith("/") or not _AUTHORITY.fullmatch(authority):
        return url
    return f"{request.url.scheme}://{authority}{url}"
