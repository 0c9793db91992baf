"""Vectors of prompts, computed once and kept on disk.

One file pair per embedder: `<digest>.npy` holds the vectors, `<digest>.keys.npy` the SHA-256 of their texts, row for
row. Files are replaced as a whole, so a killed run leaves the earlier ones; nothing in them is ever executed.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from loadtest.simulator.workload import Floats

Embed = Callable[[Sequence[str]], Floats]
Keys = NDArray[np.uint8]

_AT_ONCE = 256
_SAVE_EVERY = 1024
_KEY_BYTES = 32


class EmbeddingCache:
    """The vectors of one embedder, in a folder."""

    def __init__(self, folder: Path, digest: str) -> None:
        """Use the files of the embedder called `digest` in `folder`, which may not exist yet."""
        self._vectors_path = folder / f"{digest}.npy"
        self._keys_path = folder / f"{digest}.keys.npy"
        self._known: dict[bytes, Floats] = self._load()

    def vectors(self, prompts: Sequence[str], embed: Embed, *, quiet: bool = False) -> Floats:
        """Return a unit vector for each prompt, embedding only those never seen before."""
        keys = [_key(prompt) for prompt in prompts]
        missing = [position for position, key in enumerate(keys) if key not in self._known]
        bar = tqdm(total=len(prompts), initial=len(prompts) - len(missing), desc="embed", unit="text", disable=quiet)
        unsaved = 0
        with bar:
            for start in range(0, len(missing), _AT_ONCE):
                batch = missing[start : start + _AT_ONCE]
                for position, vector in zip(batch, embed([prompts[p] for p in batch]), strict=True):
                    self._known[keys[position]] = np.asarray(vector, np.float32)
                bar.update(len(batch))
                unsaved += len(batch)
                if unsaved >= _SAVE_EVERY:
                    self._save()
                    unsaved = 0
        if unsaved:
            self._save()
        return np.stack([self._known[key] for key in keys])

    def _load(self) -> dict[bytes, Floats]:
        try:
            keys: Keys = np.load(self._keys_path, allow_pickle=False)
            vectors: Floats = np.load(self._vectors_path, allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return {}  # nothing there, or a file cut short: embed again
        # Vectors are written first: a run killed between the two leaves more vectors than keys.
        if keys.ndim != 2 or keys.shape[1] != _KEY_BYTES or vectors.ndim != 2 or len(vectors) < len(keys):
            return {}
        return {row.tobytes(): vector for row, vector in zip(keys, vectors, strict=False)}

    def _save(self) -> None:
        self._vectors_path.parent.mkdir(parents=True, exist_ok=True)
        keys = np.frombuffer(b"".join(self._known), np.uint8).reshape(-1, _KEY_BYTES)
        for path, array in ((self._vectors_path, np.stack(list(self._known.values()))), (self._keys_path, keys)):
            draft = path.with_name(f"{path.name}.{os.getpid()}.part")
            with draft.open("wb") as file:
                np.save(file, array, allow_pickle=False)
            draft.replace(path)


def _key(prompt: str) -> bytes:
    return hashlib.sha256(prompt.encode()).digest()
