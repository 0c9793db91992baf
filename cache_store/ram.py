"""The RAM tier: the states used last, up to a bound in bytes."""

from collections import OrderedDict
from dataclasses import replace

from cache_store.states import read_only
from cache_store.types import NoiseState

Key = tuple[int, int]
_OVERHEAD = 512


class RamTier:
    """A byte-bounded LRU of noise states by (entry id, level). Not thread-safe: the event loop owns it."""

    def __init__(self, max_bytes: int) -> None:
        """Hold at most `max_bytes`; 0 holds nothing."""
        self._max_bytes = max_bytes
        self._states: OrderedDict[Key, NoiseState] = OrderedDict()
        self.nbytes = 0

    def get(self, key: Key) -> NoiseState | None:
        """Return a state and make it the most recently used."""
        state = self._states.get(key)
        if state is not None:
            self._states.move_to_end(key)
        return state

    def put(self, key: Key, state: NoiseState) -> None:
        """Hold `state`, read-only, letting go of the least recently used ones to make room."""
        self.discard(key)
        size = _size(state)
        if size > self._max_bytes:
            return
        prediction = None if state.prediction is None else read_only(state.prediction)
        self._states[key] = replace(state, latent=read_only(state.latent), prediction=prediction)
        self.nbytes += size
        while self.nbytes > self._max_bytes:
            _, oldest = self._states.popitem(last=False)
            self.nbytes -= _size(oldest)

    def discard(self, key: Key) -> None:
        """Let go of a state, if it is held."""
        state = self._states.pop(key, None)
        if state is not None:
            self.nbytes -= _size(state)

    def keys(self) -> list[Key]:
        """Return what is held, least recently used first."""
        return list(self._states)

    def clear(self) -> None:
        """Let go of everything."""
        self._states.clear()
        self.nbytes = 0

    def __contains__(self, key: Key) -> bool:
        """Return whether a state is held."""
        return key in self._states

    def __len__(self) -> int:
        """Return how many states are held."""
        return len(self._states)


def _size(state: NoiseState) -> int:
    return state.latent.nbytes + (0 if state.prediction is None else state.prediction.nbytes) + _OVERHEAD
