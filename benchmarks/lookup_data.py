"""Vectors for the `lookup` benchmark: embedded prompts, expanded by session-like edits.

The embeddings of real prompts (all-MiniLM-L6-v2) are real; everything made from them here is synthetic: a session
starts between two real prompts and goes on by displacements measured between real prompts that resemble each other.
"""

import csv
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.prompt_log import read_prompt_log
from service.embedder import Embedder

Rows = NDArray[np.float32]
SAMPLE_LOG = Path("loadtest/sample_log.jsonl")
LOGS = ("prompts/diffusiondb_first_3000.csv", "prompts/midjourney_2022_validation.csv")
_NOISE = 0.005
_SESSION = 6.0
_ALIKE = (0.75, 0.9995)
_BLOCK = 50_000


def prompts(limit: int) -> tuple[list[str], str]:
    """Return up to `limit` different prompts and where they come from."""
    folder = os.environ.get("HEADSTART_DATA")
    files = [Path(folder) / name for name in LOGS] if folder else []
    texts: list[str] = []
    for path in files:
        with path.open(newline="") as file:
            texts += [row["prompt"] for row in csv.DictReader(file)][: limit // len(files)]
    if not files:
        texts = [row.prompt for row in read_prompt_log(SAMPLE_LOG)][:limit]
    kept = [text for text in dict.fromkeys(texts) if len(text.split()) >= 3]
    return kept, "DiffusionDB and Midjourney prompts" if files else "the shipped sample log"


def embedded(texts: list[str]) -> Rows:
    """Return unit vectors [n, 384] of `texts`; kept in the temporary folder from run to run."""
    name = hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / "headstart-lookup" / f"{name}.npy"
    if path.exists():
        known: Rows = np.load(path)
        return known
    embedder = Embedder()
    rows = np.stack([embedder.embed_now(text) for text in texts])
    path.parent.mkdir(exist_ok=True)
    np.save(path, rows)
    return rows


class Source:
    """Draws session-like vectors."""

    def __init__(self, real: Rows, seed: int) -> None:
        """Start from embeddings of real prompts."""
        self._real = real
        self._rng = np.random.default_rng(seed)
        self._steps = _displacements(real)

    def sessions(self, count: int) -> Rows:
        """Return `count` vectors, a session's one after another."""
        out = np.empty((count, self._real.shape[1]), np.float32)
        for start in range(0, count, _BLOCK):
            size = min(_BLOCK, count - start)
            lengths = self._rng.geometric(1 / _SESSION, size)
            topic = np.repeat(np.arange(size), lengths)[:size]
            pairs = self._real[self._rng.integers(len(self._real), size=(2, int(topic[-1]) + 1))]
            share = self._rng.uniform(0.5, 1, (pairs.shape[1], 1)).astype(np.float32)
            bases = _unit(share * pairs[0] + (1 - share) * pairs[1])
            out[start : start + size] = self.edits(bases[topic])
        return out

    def edits(self, rows: Rows) -> Rows:
        """Return an edit of each row: a share of a real displacement, and a little noise."""
        strength = self._rng.uniform(0, 1, (len(rows), 1)).astype(np.float32)
        steps = self._steps[self._rng.integers(len(self._steps), size=len(rows))]
        noise = self._rng.normal(size=rows.shape).astype(np.float32) * _NOISE
        return _unit(rows + strength * steps + noise)

    def queries(self, rows: Rows, count: int) -> Rows:
        """Return held-out queries: four of five are edits of a stored vector, the others begin a new session."""
        fresh = count // 5
        known = self.edits(rows[self._rng.integers(len(rows), size=count - fresh)])
        return np.concatenate([known, self.sessions(fresh)])


def _displacements(real: Rows) -> Rows:
    """Return the differences between real prompts and their nearest ones that are alike but not the same."""
    alike = real @ real.T
    np.fill_diagonal(alike, -1)
    alike[alike > _ALIKE[1]] = -1
    near, best = alike.argmax(1), alike.max(1)
    chosen = best > _ALIKE[0]
    if not chosen.any():
        raise ValueError("no two prompts are alike")
    steps: Rows = real[chosen] - real[near[chosen]]
    return steps


def _unit(rows: Rows) -> Rows:
    scaled: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled
