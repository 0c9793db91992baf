"""What the simulator replays: a sequence of requests, each for one of the distinct texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from loadtest.prompt_log import LogRow

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]


@dataclass(frozen=True)
class Workload:
    """Requests in order of arrival.

    Attributes:
        name: what reports call it.
        texts: for each request the number of its text; texts are numbered by first appearance.
        vectors: unit vector of each text, float32 [texts, dimensions].
        prompts: each text, or None where the workload has vectors only.
        users: for each request who asked, as numbers, or None.
        seeds: for each request its seed, -1 = none, or None when no request has one.
    """

    name: str
    texts: Ints
    vectors: Floats
    prompts: tuple[str, ...] | None = None
    users: Ints | None = None
    seeds: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        """Return the number of requests."""
        return len(self.texts)

    @cached_property
    def first_seen(self) -> Ints:
        """The first request for each text."""
        return np.unique(self.texts, return_index=True)[1].astype(np.int32)

    @cached_property
    def last_seen(self) -> Ints:
        """The last request for each text."""
        last = np.empty(len(self.vectors), np.int32)
        last[self.texts] = np.arange(len(self.texts), dtype=np.int32)
        return last


def numbered(values: Sequence[str]) -> tuple[Ints, tuple[str, ...]]:
    """Number distinct values by first appearance; return the number of each, and the distinct values."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(value, len(numbers)) for value in values]
    return np.asarray(found, np.int32), tuple(numbers)


def distinct_prompts(rows: Sequence[LogRow]) -> tuple[str, ...]:
    """Return the distinct prompts of a log in order of first appearance: what has to be embedded."""
    return tuple(dict.fromkeys(row.prompt for row in rows))


def workload_of(name: str, rows: Sequence[LogRow], vectors: Floats) -> Workload:
    """Build a workload from a log and the vectors of its `distinct_prompts`."""
    texts, prompts = numbered([row.prompt for row in rows])
    users = numbered([row.user or "" for row in rows])[0] if any(row.user for row in rows) else None
    seeds = None
    if any(row.seed is not None for row in rows):
        seeds = np.asarray([-1 if row.seed is None else row.seed for row in rows], np.int64)
    return Workload(name, texts, vectors, prompts, users, seeds)
