"""Exact-match mode: the same hits and misses as libcachesim, request by request.

libcachesim (github.com/1a1a11a/libCacheSim, PyPI) is the reference implementation by the authors of SIEVE and
S3-FIFO. In exact-match mode a request is one object of size 1: held is a hit and a use, else room is made and it
is added. What had to be found out, as its documentation does not say it:

- LFU: of equally often used objects the least recently used goes.
- S3-FIFO: an object that moves to the main queue starts there with a count of 0. (The paper keeps its count, and so
  the code seems to intend, but it copies another field than the one it reads.) In the main queue counts are capped at
  3 when one is put back. Until the first eviction, newcomers that find the small queue full go to the main one. The
  ghost of the requested object is taken out before room is made for it.
- S3-FIFO stores nothing at all unless its small queue, a tenth of the capacity rounded down, is larger than an object
  (it refuses objects as large as that queue). Hence no capacity below 20 for it here; ours works in any.
"""

from collections.abc import Sequence

import libcachesim
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eviction import Item, make_eviction

PEERS = {
    "lru": libcachesim.LRU,
    "lfu": libcachesim.LFU,
    "fifo": libcachesim.FIFO,
    "s3-fifo": libcachesim.S3FIFO,
    "sieve": libcachesim.Sieve,
}


def ours(name: str, trace: Sequence[int], capacity: int) -> list[bool]:
    policy = make_eviction(name, capacity)
    hits = []
    for number in trace:
        key = (number, 0)
        hits.append(key in policy)
        if hits[-1]:
            policy.use(key)
            continue
        while len(policy) >= capacity:
            victim = policy.victim()
            assert victim is not None
            policy.remove(victim)
        policy.add(key, Item(0.5, 1.0, 1, number))
    return hits


def theirs(name: str, trace: Sequence[int], capacity: int) -> list[bool]:
    cache = PEERS[name](capacity, hashpower=14)
    hits = []
    for number in trace:
        request = libcachesim.Request()
        request.obj_id, request.obj_size = number + 1, 1
        hits.append(bool(cache.get(request)))
    return hits


def zipf(seed: int, length: int, items: int, exponent: float) -> list[int]:
    weights = np.arange(1, items + 1) ** -exponent
    drawn = np.random.default_rng(seed).choice(items, size=length, p=weights / weights.sum())
    return [int(i) for i in drawn]


def scan_and_zipf() -> list[int]:
    """Popular objects, and every now and then a run of objects never seen again."""
    trace, fresh = [], 10_000
    for part in range(20):
        trace += zipf(part, 300, 200, 0.9)
        trace += range(fresh, fresh + 80)
        fresh += 80
    return trace


TRACES = {
    "zipf-0.7": zipf(1, 6000, 800, 0.7),
    "zipf-1.1": zipf(2, 6000, 800, 1.1),
    "loop": list(range(150)) * 20,
    "scan+zipf": scan_and_zipf(),
    "drift": [i + 3 * (n // 40) for n, i in enumerate(zipf(3, 6000, 300, 1.0))],
}


@pytest.mark.parametrize("capacity", [20, 37, 100, 149, 400])
@pytest.mark.parametrize("trace", sorted(TRACES))
@pytest.mark.parametrize("name", sorted(PEERS))
def test_equals_libcachesim_on_long_traces(name: str, trace: str, capacity: int) -> None:
    assert ours(name, TRACES[trace], capacity) == theirs(name, TRACES[trace], capacity)


@pytest.mark.parametrize("name", sorted(PEERS))
@given(trace=st.lists(st.integers(0, 60), min_size=40, max_size=400), capacity=st.integers(20, 40))
@settings(max_examples=60, deadline=None)
def test_equals_libcachesim_on_random_traces(name: str, trace: list[int], capacity: int) -> None:
    assert ours(name, trace, capacity) == theirs(name, trace, capacity)


@pytest.mark.parametrize("name", sorted(set(PEERS) - {"s3-fifo"}))
@given(trace=st.lists(st.integers(0, 12), max_size=120), capacity=st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_equals_libcachesim_in_small_caches(name: str, trace: list[int], capacity: int) -> None:
    assert ours(name, trace, capacity) == theirs(name, trace, capacity)
