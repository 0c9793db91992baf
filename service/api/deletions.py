"""From a query to what shall be listed or deleted."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from cache_store.browsing import Filter
from cache_store.selection import Selection, user_digest
from service.api.errors import InvalidRequestError
from service.api.schema import DeletionQuery, EntryQuery


def selection_of(query: DeletionQuery, names: Sequence[str], tenant: str) -> Selection:
    """Return the entries of `tenant` that `query` means.

    Args:
        query: the criteria.
        names: the parameters' names as they were sent.
        tenant: whose entries.

    Raises:
        InvalidRequestError: a criterion is wrong, or there is none; nothing is guessed where something is deleted.
    """
    _check_once(names)
    before, after = _times(query)
    given = [name for name in ("user", "before", "after") if getattr(query, name) is not None]
    if not given and not query.all:
        raise InvalidRequestError("all", "all: must be true to delete everything; or give user, before or after")
    if given and query.all:
        raise InvalidRequestError("all", "all: cannot go with other criteria")
    user = None if query.user is None else user_digest(tenant, query.user)
    return Selection(tenant=tenant, user=user, created_before=before, created_after=after)


def filter_of(query: EntryQuery, names: Sequence[str], tenant: str) -> Filter:
    """Return which entries of `tenant` a query wants to see; arguments and errors as in `selection_of`."""
    _check_once(names)
    before, after = _times(query)
    user = None if query.user is None else user_digest(tenant, query.user)
    return Filter(user=user, created_before=before, created_after=after, text=query.prompt)


def _check_once(names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidRequestError(name, f"{name}: must be given once")


def _times(query: DeletionQuery | EntryQuery) -> tuple[float | None, float | None]:
    before, after = _time("before", query.before), _time("after", query.after)
    if before is not None and after is not None and after >= before:
        raise InvalidRequestError("after", "after: must be earlier than before")
    return before, after


def _time(name: str, text: str | None) -> float | None:
    """Return Unix seconds."""
    if text is None:
        return None
    seconds = _unix(text)
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        raise InvalidRequestError(name, f"{name}: must be Unix seconds or a time in ISO 8601")
    return seconds


def _unix(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        # A "+" that was sent bare arrives as a space.
        moment = datetime.fromisoformat(text.strip().replace(" ", "+") if "T" in text else text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
