"""The pictures that wait for their first step, in the order in which they came."""

from collections.abc import Iterator
from contextlib import contextmanager


class Line:
    """Knows who is ahead of whom; it decides nothing."""

    def __init__(self) -> None:
        self._waiting: dict[str, None] = {}

    @contextmanager
    def waiting(self, request_id: str) -> Iterator[None]:
        """Stand in line until `leave`, or the end of the block at the latest."""
        self._waiting[request_id] = None
        try:
            yield
        finally:
            self.leave(request_id)

    def leave(self, request_id: str) -> None:
        """Leave the line; it is no error not to stand in it."""
        self._waiting.pop(request_id, None)

    def position(self, request_id: str) -> int | None:
        """Return 1 for who is next, 2 for who comes after; None for who does not wait."""
        if request_id not in self._waiting:
            return None
        return list(self._waiting).index(request_id) + 1
