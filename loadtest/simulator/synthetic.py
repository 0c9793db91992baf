"""A workload of any size from nothing but a seed: sessions, Zipf topics, drift. Vectors only, no texts.

Users come for sessions. A session has a topic, drawn by a Zipf law whose ranking drifts: over the log, every topic
passes through fame. Within a session a user asks again in the same words, edits a little, or rephrases; sometimes a
prompt from the gallery of a topic is asked for as it is. Everything is invented: say so wherever it is reported.
"""

from dataclasses import dataclass

import numpy as np

from loadtest.simulator.workload import Floats, Workload


@dataclass(frozen=True)
class Shape:
    """What the invented traffic looks like.

    Attributes:
        topics: how many there are.
        zipf: exponent of their popularity.
        drift: by how many ranks the popularity moves on over the whole workload, as a share of the topics.
        session: mean requests of a session.
        together: sessions going on at once.
        retry: share of later requests in a session in the same words.
        gallery: share of first requests that repeat one of the topic's shared prompts.
        edit: how far an edit moves the vector, beside a vector of length 1.
        spread: how far a session's first prompt lies from its topic.
        dimensions: of the vectors.
    """

    topics: int = 5000
    zipf: float = 0.9
    drift: float = 0.5
    session: float = 6.0
    together: int = 16
    retry: float = 0.3
    gallery: float = 0.2
    edit: float = 0.35
    spread: float = 0.6
    dimensions: int = 64


def synthetic_workload(requests: int, seed: int, shape: Shape | None = None) -> Workload:
    """Draw a workload; equal arguments give equal workloads."""
    shape = shape or Shape()
    rng = np.random.default_rng(seed)
    lengths = 1 + rng.poisson(shape.session - 1, size=requests)
    sessions = int(np.searchsorted(np.cumsum(lengths), requests)) + 1
    lengths = lengths[:sessions]
    session_of = np.repeat(np.arange(sessions), lengths)
    # Sessions overlap: a request's place is its session's start plus a gap for each earlier request of it.
    turn = np.arange(len(session_of)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    place = session_of * shape.session + (turn * shape.together * rng.uniform(0.5, 1.5, len(session_of)))
    order = np.argsort(place, kind="stable")[:requests]
    rank = np.argsort(np.argsort(place, kind="stable"), kind="stable")
    vectors, texts = _draw(rng, shape, session_of, turn, rank / len(rank), sessions)
    distinct, numbers = _by_appearance(texts[order])
    return Workload(f"synthetic-{requests}", numbers, vectors[distinct], users=session_of[order].astype(np.int32))


def _draw(
    rng: np.random.Generator,
    shape: Shape,
    session_of: np.ndarray,
    turn: np.ndarray,
    when: np.ndarray,
    sessions: int,
) -> tuple[Floats, np.ndarray]:
    """Return a vector for each request, and for each the request whose text it repeats (itself if none)."""
    first = np.flatnonzero(turn == 0)
    topic = _topics(rng, shape, when[first])
    centres = _unit(rng.standard_normal((shape.topics, shape.dimensions), dtype=np.float32))
    vectors = rng.standard_normal((len(turn), shape.dimensions), dtype=np.float32)
    vectors *= np.where(turn == 0, shape.spread, shape.edit)[:, np.newaxis].astype(np.float32) / shape.dimensions**0.5
    vectors[first] += centres[topic]
    texts = np.arange(len(turn))
    shared = np.flatnonzero(rng.random(sessions) < shape.gallery)
    texts[first[shared]] = _earliest_of(topic[shared], first[shared], when)
    again = (turn > 0) & (rng.random(len(turn)) < shape.retry)
    for step in range(1, int(turn.max(initial=0)) + 1):
        now = np.flatnonzero(turn == step)
        texts[now] = np.where(again[now], texts[now - 1], now)
        vectors[now] += _unit(vectors[now - 1])
    vectors = _unit(vectors)
    return vectors, texts


def _topics(rng: np.random.Generator, shape: Shape, when: np.ndarray) -> np.ndarray:
    weights = 1.0 / np.arange(1, shape.topics + 1) ** shape.zipf
    ranks = np.searchsorted(np.cumsum(weights) / weights.sum(), rng.random(len(when)))
    moved = (when * shape.drift * shape.topics).astype(np.int64)
    return np.asarray((np.minimum(ranks, shape.topics - 1) + moved) % shape.topics)


def _earliest_of(topic: np.ndarray, requests: np.ndarray, when: np.ndarray) -> np.ndarray:
    """For each of `requests` the earliest of them with the same topic: the text that its gallery shows."""
    order = np.argsort(when[requests], kind="stable")
    _, firsts, back = np.unique(topic[order], return_index=True, return_inverse=True)
    found = np.empty(len(requests), np.int64)
    found[order] = requests[order][firsts[back]]
    return found


def _by_appearance(texts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct values in order of appearance, and for each value its place in that order."""
    distinct, firsts, back = np.unique(texts, return_index=True, return_inverse=True)
    order = np.argsort(firsts, kind="stable")
    place = np.empty(len(order), np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return distinct[order], place[back].astype(np.int32)


def _unit(rows: Floats) -> Floats:
    lengths = np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return np.asarray(rows / lengths, np.float32)
