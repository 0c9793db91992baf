"""The request headers that several routes take, and what each is for, as OpenAPI tells it."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Header

_CACHE_CONTROL = "`no-store`, `no-cache`, `max-age`, `min-fresh`, `only-if-cached`; others are ignored."
_IDEMPOTENCY_KEY = "A name of the client's for this request, 1 to 255 characters: sent again, it is answered once."

CacheControl = Annotated[str, Header(max_length=500, description=_CACHE_CONTROL)]
IdempotencyKey = Annotated[str, Header(max_length=300, description=_IDEMPOTENCY_KEY)]
Prefer = Annotated[str, Header(max_length=500, description="`respond-async`: a job (RFC 7240).")]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request for pictures says in headers, beside its body."""

    cache_control: str
    idempotency_key: str
    prefer: str


async def _asked(
    cache_control: CacheControl = "", idempotency_key: IdempotencyKey = "", prefer: Prefer = ""
) -> Asked:
    return Asked(cache_control, idempotency_key, prefer)


AskedOf = Annotated[Asked, Depends(_asked)]
