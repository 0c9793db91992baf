"""Workloads for `benchmarks/eviction.py`: real logs where HEADSTART_DATA points to them, invented ones elsewhere.

HEADSTART_DATA names a folder with `prompts/diffusiondb_first_3000.csv` (DiffusionDB 2M, CC0),
`prompts/midjourney_2022_validation.csv` (succinctly/midjourney-prompts) and `traces/genai_image_requests.csv.gz`
(Alibaba cluster-trace-v2026-GenAI). None of them is part of the project.
"""

import csv
import gzip
import os
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from loadtest.prompt_log import LogRow, read_prompt_log
from loadtest.simulator.embeddings import EmbeddingCache
from loadtest.simulator.workload import Workload, distinct_prompts, workload_of
from service.embedder import Embedder

EMBEDDINGS = Path("var/embeddings")
SAMPLE_LOG = Path("loadtest/sample_log.jsonl")
SESSION_GAP = 1800.0
_NOISE = re.compile(r"https?://\S+|--\S+(?:\s+[\d.:]+)?|<[^>]*>")

Thing = TypeVar("Thing")

Ask = tuple[float, str, str]
"""A request of the trace: time, user, and what tells whether it repeats the user's last one."""


def data_folder() -> Path | None:
    """Return the folder of real logs, or None."""
    name = os.environ.get("HEADSTART_DATA")
    return Path(name) if name else None


def embedded(name: str, rows: Sequence[LogRow], *, quiet: bool) -> Workload:
    """Embed a log's texts with the service's own embedder, once and for all."""
    embedder = Embedder()
    cache = EmbeddingCache(EMBEDDINGS, embedder.digest)
    return workload_of(name, rows, cache.vectors(distinct_prompts(rows), embedder.embed_many, quiet=quiet))


def diffusiondb(folder: Path, limit: int | None) -> list[LogRow]:
    """Real prompts in log-like order; no users, no times."""
    return read_prompt_log(folder / "prompts/diffusiondb_first_3000.csv", limit=limit)


def midjourney(folder: Path) -> list[str]:
    """Real messages without order, fragments dropped."""
    with (folder / "prompts/midjourney_2022_validation.csv").open(encoding="utf-8", newline="") as file:
        texts = [" ".join(_NOISE.sub(" ", row["prompt"]).split()) for row in csv.DictReader(file)]
    return [text for text in dict.fromkeys(texts) if len(text.split()) >= 3]


def joined(
    folder: Path, chains: Sequence[Sequence[str]], strangers: Sequence[str], seed: int, limit: int
) -> list[LogRow]:
    """Arrivals, users and sessions of a production trace, with texts from prompt logs: synthetic, as every join is.

    A session is what one user asks without a break of half an hour. It follows a chain of DiffusionDB (prompts that
    stand next to each other there and resemble each other), or, as often, begins with a Midjourney prompt and goes on
    with a chain. Where the trace says that a user repeated prompt length and model, the text is repeated; where a
    chain ends, the next one is taken. Every text is used once before any is drawn again. The seed decides which
    stretch of the trace is taken, and which session gets which texts.
    """
    asks = production_trace(folder / "traces/genai_image_requests.csv.gz")
    rng = np.random.default_rng(seed)
    start = int(rng.integers(0, max(1, len(asks) - limit)))
    pool, others = _endless(chains, rng), _endless(strangers, rng)
    sessions: dict[str, _Session] = {}
    rows = []
    for line, (moment, user, sameness) in enumerate(asks[start : start + limit], start=1):
        session = sessions.get(user)
        if session is None or moment - session.last > SESSION_GAP:
            session = sessions[user] = _Session(pool, next(others) if rng.random() < 0.5 else None)
        rows.append(LogRow(line, session.ask(moment, sameness), moment - asks[start][0], user))
    return rows


class _Session:
    """One user's way through the texts."""

    def __init__(self, pool: "Iterator[Sequence[str]]", opening: str | None) -> None:
        self._pool = pool
        self._left = iter([opening] if opening else next(pool))
        self._text = ""
        self._sameness = ""
        self.last = 0.0

    def ask(self, moment: float, sameness: str) -> str:
        """Return the text of the next request."""
        self.last = moment
        if sameness != self._sameness or not self._text:
            self._text, self._sameness = self._next(), sameness
        return self._text

    def _next(self) -> str:
        for text in self._left:
            return text
        self._left = iter(next(self._pool))
        return next(self._left)


def _endless(things: Sequence[Thing], rng: np.random.Generator) -> Iterator[Thing]:
    """All things in random order, each once; after that, any of them at random.

    Going through all of them again in order would be a cycle as no traffic has, and the worst case of LRU.
    """
    yield from (things[place] for place in rng.permutation(len(things)))
    while True:
        yield things[int(rng.integers(len(things)))]


def production_trace(path: Path) -> list[Ask]:
    """Return the text-to-image requests of `traces/genai_image_requests.csv.gz`, in order of time."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        rows = [
            (datetime.fromisoformat(row["gmt_create"]).timestamp(), row["groupId"], _sameness(row))
            for row in csv.DictReader(file)
            if row["predict_type"] == "TXT_2_IMG"
        ]
    return sorted(rows)


def _sameness(row: dict[str, str]) -> str:
    return f"{row['prompt_length']}/{row['checkpoint_model_version_id']}"


def chains_of(workload: Workload, least: float = 0.65) -> list[list[str]]:
    """Cut a log in order wherever a prompt does not resemble the one before: what is left are users' attempts."""
    if workload.prompts is None:
        raise ValueError("chains need texts")
    vectors = workload.vectors[workload.texts]
    alike = (vectors[1:] * vectors[:-1]).sum(axis=1) >= least
    chains = [[workload.prompts[workload.texts[0]]]]
    for text, goes_on in zip(workload.texts[1:].tolist(), alike.tolist(), strict=True):
        if goes_on:
            chains[-1].append(workload.prompts[text])
        else:
            chains.append([workload.prompts[text]])
    return chains
