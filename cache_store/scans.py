"""Walking through the catalogue's keys while others write: a page at a time, never holding Redis for long.

What is there from the beginning of a walk to its end is met, perhaps twice; what comes or goes meanwhile may be met.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from cache_store.catalogue import PREFIX
from cache_store.link import RedisLink

_PAGE = 500


class Scans:
    """Pages of keys and members; call only inside the link's guard."""

    def __init__(self, link: RedisLink) -> None:
        """Use `link`."""
        self._link = link

    async def keys(self, kind: str) -> AsyncIterator[list[str]]:
        """Yield what follows `kind` and a colon in the names of keys: `keys("entry")` yields entry ids."""
        head = f"{PREFIX}{kind}:"
        cursor = 0
        while True:
            cursor, found = await self._link.call("SCAN", cursor, "MATCH", head + "*", "COUNT", 2 * _PAGE)
            if found:
                yield [text_of(name)[len(head) :] for name in found]
            if not cursor:
                return

    async def set_members(self, name: str) -> AsyncIterator[list[str]]:
        """Yield the members of the set `name`, without the prefix."""
        async for page in self._walk("SSCAN", name):
            yield [text_of(member) for member in page]

    async def sorted_members(self, name: str) -> AsyncIterator[list[str]]:
        """Yield the members of the sorted set `name`, without the prefix."""
        async for page in self._walk("ZSCAN", name):
            yield [text_of(member) for member, _ in page]

    async def _walk(self, command: str, name: str) -> AsyncIterator[Sequence[Any]]:
        cursor = 0
        while True:
            cursor, found = await self._link.call(command, bytes_of(PREFIX + name), cursor, "COUNT", _PAGE)
            if found:
                yield found
            if not cursor:
                return

    async def fields(self, entry_ids: Sequence[int], *names: str) -> list[list[bytes | None]]:
        """Return these fields of each entry, all None for one that is not there."""
        return await self._link.batch([("HMGET", f"{PREFIX}entry:{entry_id}", *names) for entry_id in entry_ids])


def text_of(name: bytes) -> str:
    """Return a key's or member's name; one that damage has made unreadable survives the way there and back."""
    return name.decode("utf-8", "surrogateescape")


def bytes_of(name: str) -> bytes:
    """Return what `text_of` was given."""
    return name.encode("utf-8", "surrogateescape")


def pages_of(items: Sequence[int], size: int = _PAGE) -> list[Sequence[int]]:
    """Return `items` cut into pages."""
    return [items[start : start + size] for start in range(0, len(items), size)]
