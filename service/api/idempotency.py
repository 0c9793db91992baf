"""`Idempotency-Key`: a request that is sent again is not drawn again (IETF draft-ietf-httpapi-idempotency-key).

The key belongs to the tenant. While its first request runs, a lease that is renewed claims the key; its success
is kept as it was answered, a failure gives the key back. What cannot be kept is served all the same, and says so.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from fastapi import Response
from prometheus_client import Counter
from pydantic import BaseModel

from cache_store.deposits import Deposit, Deposits
from cache_store.types import CacheUnavailable
from service.api.errors import InvalidRequestError
from service.api.wishes import Order

HEADER = "Idempotency-Key"
STATUS_HEADER = "Idempotency-Status"
LEASE_SECONDS = 30.0
_KEY = re.compile(r"[\x21\x23-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?")
_KEPT_HEADERS_LEFT_OUT = ("content-length", "x-request-id")
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Once:
    """One request that shall be answered once.

    Attributes:
        key: what the client sent.
        tenant: whose request it is.
        user: digest of whom it is for, so that the answer is forgotten with the user.
        fingerprint: hash of the route and the body.
        safety_version: of the checker that pictures pass; under another one nothing answered before is found.
    """

    key: str
    tenant: str
    user: str
    fingerprint: str
    safety_version: str = ""

    @property
    def name(self) -> str:
        """The key as it is stored."""
        return _name(self.tenant, self.key, self.safety_version)


def _name(tenant: str, key: str, safety_version: str) -> str:
    parts = [tenant, key, *([safety_version] if safety_version else [])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def once_of(key: str, route: str, body: BaseModel, order: Order, safety_version: str) -> Once | None:
    """Return what makes a request unique, None without a key.

    Args:
        key: the header, with or without the quotation marks of a structured field.
        route: of the request, and what of it is not in the body.
        body: of the request; how it was spelled plays no part.
        order: what it asks for.
        safety_version: see `Once`.

    Raises:
        InvalidRequestError: the header is no key.
    """
    if not key:
        return None
    bare = _bare(key)
    if bare is None:
        message = "idempotency-key: must be 1 to 255 printable ASCII characters"
        raise InvalidRequestError("idempotency-key", message)
    text = json.dumps([route, body.model_dump(mode="json", exclude_unset=True)], sort_keys=True)
    first, fingerprint = order.requests[0], hashlib.sha256(text.encode()).hexdigest()
    return Once(bare, first.tenant, first.user, fingerprint, safety_version)


def _bare(key: str) -> str | None:
    """Return a header's key without quotation marks, None where it is none."""
    bare = key[1:-1] if len(key) > 2 and key[0] == key[-1] == '"' else key
    return bare if _KEY.fullmatch(bare) else None


async def is_answered(key: str, tenant: str, safety_version: str, deposits: Deposits) -> bool:
    """Return whether a request with this key was answered, be it the same or another; False where nobody can tell.

    Args:
        key: as for `once_of`, or any other text.
        tenant: whose request it is.
        safety_version: see `Once`.
        deposits: where answers lie.
    """
    bare = _bare(key)
    if bare is None:
        return False
    try:
        found = await deposits.find("answer", _name(tenant, bare, safety_version), tenant)
    except CacheUnavailable:
        return False
    return found is not None and "status" in json.loads(found.body)


async def answered_once(
    once: Once | None, deposits: Deposits, outcomes: Counter, make: Callable[[], Awaitable[Response]]
) -> Response:
    """Return the stored answer to an earlier request with this key, or make one and store it.

    Args:
        once: the request; None = it has no key.
        deposits: where answers lie.
        outcomes: counts requests by "stored", "replayed", "reused", "in_progress" and "unavailable".
        make: answers.

    Raises:
        InvalidRequestError: the key was used with another request (422), or that request still runs (409).
    """
    if once is None:
        return await make()
    try:
        earlier = await _claim(once, deposits)
    except CacheUnavailable:
        return _marked(await make(), "unavailable", outcomes)
    except InvalidRequestError as error:
        outcomes.labels("in_progress" if error.status == 409 else "reused").inc()
        raise
    if earlier is not None:
        return _marked(earlier, "replayed", outcomes)
    async with _claimed(once, deposits):
        response = await make()
        stored = await _store(once, deposits, response)
    return _marked(response, "stored" if stored else "unavailable", outcomes)


def _marked(response: Response, outcome: str, outcomes: Counter) -> Response:
    outcomes.labels(outcome).inc()
    response.headers[STATUS_HEADER] = outcome
    return response


async def _claim(once: Once, deposits: Deposits) -> Response | None:
    """Claim the key, or return the answer it already has."""
    body = json.dumps({"fingerprint": once.fingerprint})
    for _ in range(_ATTEMPTS):
        if await deposits.create("answer", once.name, once.tenant, body, user=once.user, seconds=LEASE_SECONDS):
            return None
        found = await deposits.find("answer", once.name, once.tenant)
        if found is None:  # it has just expired
            continue
        answer = await _earlier(once, deposits, found)
        if answer is not None:
            return answer
        await deposits.drop("answer", once.name, once.tenant)  # the answer's bytes are gone
    raise CacheUnavailable("the key cannot be claimed")


async def _earlier(once: Once, deposits: Deposits, found: Deposit) -> Response | None:
    known = json.loads(found.body)
    if known["fingerprint"] != once.fingerprint:
        message = "idempotency-key: was used with another request"
        raise InvalidRequestError("idempotency-key", message, code="idempotency_key_reuse", status=422)
    if "status" not in known:
        message = "idempotency-key: the first request with it is still being answered"
        headers = {"Retry-After": "1"}
        raise InvalidRequestError(
            "idempotency-key", message, code="idempotency_in_progress", status=409, headers=headers
        )
    data = await deposits.data(found)
    return None if data is None else Response(data, known["status"], known["headers"])


@asynccontextmanager
async def _claimed(once: Once, deposits: Deposits) -> AsyncIterator[None]:
    """Renew the claim meanwhile; give the key back when it ends in a failure."""
    renewing = asyncio.create_task(_renew(once, deposits))
    try:
        yield
    except BaseException:
        with suppress(CacheUnavailable):
            await deposits.drop("answer", once.name, once.tenant)
        raise
    finally:
        renewing.cancel()


async def _renew(once: Once, deposits: Deposits) -> None:
    body = json.dumps({"fingerprint": once.fingerprint})
    while True:
        await asyncio.sleep(LEASE_SECONDS / 3)
        with suppress(CacheUnavailable):
            await deposits.update("answer", once.name, once.tenant, body, seconds=LEASE_SECONDS)


async def _store(once: Once, deposits: Deposits, response: Response) -> bool:
    headers = {name: value for name, value in response.headers.items() if name not in _KEPT_HEADERS_LEFT_OUT}
    body = json.dumps({"fingerprint": once.fingerprint, "status": response.status_code, "headers": headers})
    try:
        written = await deposits.update("answer", once.name, once.tenant, body, data=bytes(response.body))
    except CacheUnavailable:
        return False
    return written is not None
