"""Where a page of a list ended, as text that clients hand back unread."""

import base64
import binascii
import re

from cache_store.browsing import Place
from service.api.errors import InvalidRequestError

_JOB = re.compile(r"j(\d{1,18})", re.ASCII)
_ENTRY = re.compile(r"e(\d{1,12}(?:\.\d{1,10})?):(\d{1,19})", re.ASCII)
_DESCENT = re.compile(r"d(\d{1,12}(?:\.\d{1,10})?)", re.ASCII)


def job_cursor(number: int) -> str:
    """Return the cursor of the page after the job of this number."""
    return _text(f"j{number}")


def job_place(cursor: str) -> int | None:
    """Return the number below which a page begins; None for the first page. Raises InvalidRequestError."""
    return int(_match(_JOB, cursor)[1]) if cursor else None


def entry_cursor(place: Place) -> str:
    """Return the cursor of the page after an entry."""
    return _text(f"e{place.created}:{place.entry_id}")


def entry_place(cursor: str) -> Place | None:
    """Return the place after which a page begins; None for the first page. Raises InvalidRequestError."""
    if not cursor:
        return None
    found = _match(_ENTRY, cursor)
    return Place(found[1], found[2])


def descent_cursor(created: str) -> str:
    """Return the cursor of the page after what came from an entry at this time."""
    return _text(f"d{created}")


def descent_place(cursor: str) -> str | None:
    """Return the time before which a page begins; None for the first page. Raises InvalidRequestError."""
    return _match(_DESCENT, cursor)[1] if cursor else None


def _text(plain: str) -> str:
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def _match(form: re.Pattern[str], cursor: str) -> re.Match[str]:
    try:
        plain = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4)).decode("ascii")
    except (binascii.Error, UnicodeError):
        plain = ""
    found = form.fullmatch(plain)
    if found is None:
        raise InvalidRequestError("cursor", "cursor: must be the next_cursor of an earlier page of this list")
    return found
