"""The bound on what clients send and the service holds before anything is drawn: bytes of bodies with pictures."""

from collections import Counter
from typing import Self

from service.refusals import RefusedError

# Predicted time until a place: bodies are read and decoded, or refused, within seconds.
RETRY_SECONDS = 2.0
LEAST_BYTES = 1024**2
"""What an upload counts for at least: a small file may hold a picture that takes as long to decode as a large one."""


class UploadRoom:
    """Counts the bytes of uploads between their first byte and their decoding.

    A tenant may hold as much as is still free (dynamic thresholds, Choudhury and Hahne 1998): alone it gets half, and
    whoever comes next finds room, however much the others send.

    Args:
        most: bytes of all uploads at once.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._held: Counter[str] = Counter()

    @property
    def held(self) -> int:
        """Bytes taken."""
        return self._held.total()

    def take(self, tenant: str, size: int) -> "Stay":
        """Take room for an upload before it is read.

        Args:
            tenant: whose it is.
            size: most bytes that will be read.

        Raises:
            RefusedError: there is no room. An upload larger than the bound enters when nothing else is inside.
        """
        size = max(size, LEAST_BYTES)
        if self._held and self._held[tenant] + size > self._most - self.held:
            raise RefusedError("uploads_full", RETRY_SECONDS)
        self._held[tenant] += size
        return Stay(self, tenant, size)

    def free(self, tenant: str, size: int) -> None:
        """Give room back."""
        self._held[tenant] -= size
        self._held = +self._held


class Stay:
    """Room that an upload takes, until it is released or the block ends.

    Args:
        room: where.
        tenant: whose the upload is.
        size: what was taken.
    """

    def __init__(self, room: UploadRoom, tenant: str, size: int) -> None:
        self._room = room
        self._tenant = tenant
        self._size = size

    def release(self) -> None:
        """Give the room back; it is no error to have done so before."""
        self._room.free(self._tenant, self._size)
        self._size = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()
