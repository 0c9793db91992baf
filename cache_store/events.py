"""What happened to the catalogue, and a place in that history."""

from dataclasses import dataclass

from cache_store.records import try_number


class HistoryLost(Exception):
    """The events after a mark cannot be had: they were trimmed, or a crash of Redis undid them."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the catalogue's history: the last event seen.

    Attributes:
        sequence: its number, 0 before the first event.
        stamp: when Redis wrote it, which tells it from another event that got the same number after a crash.
    """

    sequence: int = 0
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to the catalogue.

    Attributes:
        sequence: rises by one from event to event.
        kind: "add", "touch", "evict" or "forget".
        entry_id: to which entry.
        level: to which of its states; None for a picture or the whole entry.
        stamp: when Redis wrote it.
        detail: why, of an eviction; the partition, of an addition.
    """

    sequence: int
    kind: str
    entry_id: int
    level: int | None
    stamp: str = ""
    detail: str = ""

    @property
    def mark(self) -> Mark:
        """Its place in history."""
        return Mark(self.sequence, self.stamp)


def parse_event(name: bytes, fields: dict[bytes, bytes]) -> Event:
    """Read an event of the stream."""
    return Event(
        sequence=int(name.split(b"-")[0]),
        kind=fields[b"kind"].decode(),
        entry_id=int(fields[b"id"]),
        level=try_number(fields[b"level"]),  # "image", or nothing, or what damage left where a level belongs
        stamp=fields.get(b"at", b"").decode(),
        detail=fields[b"detail"].decode("utf-8", "replace"),
    )
