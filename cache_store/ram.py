"""The RAM tier: the states used last, up to a bound in bytes."""

from collections import OrderedDict

Key = tuple[int, int]
_OVERHEAD = 512


class RamTier:
    """A byte-bounded LRU of states' files by (entry id, level). Not thread-safe: the event loop owns it.

    Holds them as they are written, verified: reading one again costs far less than a denoising step, and a codec that
    halves the files doubles what fits.
    """

    def __init__(self, max_bytes: int) -> None:
        """Hold at most `max_bytes`; 0 holds nothing."""
        self._max_bytes = max_bytes
        self._files: OrderedDict[Key, bytes] = OrderedDict()
        self.nbytes = 0

    def get(self, key: Key) -> bytes | None:
        """Return a state's file and make it the most recently used."""
        data = self._files.get(key)
        if data is not None:
            self._files.move_to_end(key)
        return data

    def put(self, key: Key, data: bytes) -> None:
        """Hold a verified file, letting go of the least recently used ones to make room."""
        self.discard(key)
        size = _size(data)
        if size > self._max_bytes:
            return
        self._files[key] = data
        self.nbytes += size
        while self.nbytes > self._max_bytes:
            _, oldest = self._files.popitem(last=False)
            self.nbytes -= _size(oldest)

    def discard(self, key: Key) -> None:
        """Let go of a state, if it is held."""
        data = self._files.pop(key, None)
        if data is not None:
            self.nbytes -= _size(data)

    def keys(self) -> list[Key]:
        """Return what is held, least recently used first."""
        return list(self._files)

    def clear(self) -> None:
        """Let go of everything."""
        self._files.clear()
        self.nbytes = 0

    def __contains__(self, key: Key) -> bool:
        """Return whether a state is held."""
        return key in self._files

    def __len__(self) -> int:
        """Return how many states are held."""
        return len(self._files)


def _size(data: bytes) -> int:
    return len(data) + _OVERHEAD
