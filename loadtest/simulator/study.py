"""A comparison: policies times cache sizes on one ground, with intervals, and what to recommend from it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from loadtest.simulator.neighbours import Neighbours
from loadtest.simulator.oracle import future_of
from loadtest.simulator.pages import pages_of
from loadtest.simulator.replay import EXACT, MISS, UNBOUNDED, Ground, Replay, replay
from loadtest.simulator.setup import Setup
from loadtest.simulator.workload import Workload
from policies.eviction import EvictionPolicy, Parsimonious, make_eviction
from policies.eviction.oracle import Oracle

Maker = Callable[[Ground, int], EvictionPolicy]
Floats = NDArray[np.float64]

BLOCK = 100
"""Requests drawn together in a bootstrap: neighbouring requests are not independent of each other."""

GOOD_ENOUGH = 0.98
"""Share of the best saving that a recommended cache must reach."""


@dataclass(frozen=True)
class Row:
    """One replay in figures, over the reported part of the log.

    Attributes:
        setup: name of the set-up.
        policy: name of the eviction policy.
        share: cache size as a share of all states, or None where it was given in bytes.
        budget: cache size in bytes.
        saved: share of the steps saved.
        low: of its 95 % interval.
        high: of its 95 % interval.
        saved_seconds: device seconds saved.
        exact: share of requests answered with a stored picture.
        levels: share of requests resumed at each level.
        misses: share of requests run in full.
        peak_bytes: bytes held at most, over the whole log.
        writes: objects stored, over the whole log.
        evictions: objects evicted, over the whole log.
        regret: share of the steps that a cache without bound saves beyond this one; negative where forgetting helps.
        lost: share of requests that hit without bound, and not here.
        queries: what the policy asked of a predictor, if it has one.
        rate: requests a second that the simulator went through.
    """

    setup: str
    policy: str
    share: float | None
    budget: int
    saved: float
    low: float
    high: float
    saved_seconds: float
    exact: float
    levels: tuple[float, ...]
    misses: float
    peak_bytes: int
    writes: int
    evictions: int
    regret: float
    lost: float
    queries: int | None
    rate: float


@dataclass(frozen=True)
class Size:
    """A cache size: bytes, and the share of all states they are, where it was given as one."""

    budget: int
    share: float | None = None


def named(name: str) -> Maker:
    """Make the policy of that name for each replay."""
    return lambda ground, budget: make_eviction(name, budget)


def oracle(ground: Ground, free: Replay) -> Maker:
    """Make the policy that knows the future: what `free`, a replay without bound, was served by."""
    future = future_of(ground, free)
    # Small batches: in a small cache the default would choose a good part of it at a time.
    return lambda on, budget: Oracle(budget, future, batch=max(1, budget // on.setup.states.nbytes // 200))


def make_ground(
    workload: Workload, near: Neighbours, setup: Setup, *, step_seconds: float = 1.0, steps: int = 50
) -> Ground:
    """Put a workload under a set-up."""
    masks = setup.matching.masks(near, setup.states.skips, workload.prompts)
    pages = pages_of(workload, near, setup.matching.floor)
    return Ground(workload, setup, near, masks, pages, step_seconds, steps)


def unbounded(ground: Ground) -> Replay:
    """Replay without ever forgetting."""
    return replay(ground, make_eviction("fifo", UNBOUNDED))


def ceiling(ground: Ground) -> Floats:
    """For each request the share of its steps that the best earlier text allows: no cache can save more."""
    near, workload = ground.near, ground.workload
    best = np.zeros(len(workload))
    skips = ground.setup.states.skips
    worth = np.asarray([0.0] + [skips[mask.bit_length() - 1] for mask in range(1, 1 << len(skips))])
    for request, text in enumerate(workload.texts.tolist()):
        row = slice(near.starts[text], near.starts[text + 1])
        earlier = workload.first_seen[near.texts[row]] < request
        best[request] = worth[ground.masks[row][earlier]].max(initial=0.0)
    return np.where(ground.exact_repeats, 1.0, best)


def compare(
    ground: Ground,
    makers: Mapping[str, Maker],
    sizes: Sequence[Size],
    *,
    since: int = 0,
    free: Replay | None = None,
    quiet: bool = True,
) -> list[tuple[Row, Replay]]:
    """Replay every policy at every size.

    Args:
        ground: workload and rules.
        makers: policies by name.
        sizes: cache sizes.
        since: report requests from this one on; earlier ones only warm the cache.
        free: `unbounded(ground)`, if it is there already.
        quiet: show no progress bar.
    """
    free = free or unbounded(ground)
    found = []
    pairs = [(name, size) for name in makers for size in sizes]
    for name, size in tqdm(pairs, desc=f"replay {ground.setup.name}", unit="cache", disable=quiet):
        policy = makers[name](ground, size.budget)
        done = replay(ground, policy, size.budget)
        found.append((_row(ground, name, size, done, free, since, _queries(policy)), done))
    return found


def _queries(policy: EvictionPolicy) -> int | None:
    return policy.queries if isinstance(policy, Parsimonious) else None


def _row(ground: Ground, name: str, size: Size, done: Replay, free: Replay, since: int, queries: int | None) -> Row:
    saved, levels = done.saved[since:], done.levels[since:]
    low, high = block_interval([saved.astype(float)], lambda rows: float(rows[0].mean()))
    per_level = tuple(float(np.mean(levels == level)) for level in range(len(done.skips)))
    lost = (free.levels[since:] != MISS) & (levels == MISS)
    return Row(
        setup=ground.setup.name,
        policy=name,
        share=size.share,
        budget=size.budget,
        saved=float(saved.mean()),
        low=low,
        high=high,
        saved_seconds=float(saved.sum()) * ground.steps * ground.step_seconds,
        exact=float(np.mean(levels == EXACT)),
        levels=per_level,
        misses=float(np.mean(levels == MISS)),
        peak_bytes=done.peak_bytes,
        writes=done.writes,
        evictions=done.evictions,
        regret=float(free.saved[since:].mean() - saved.mean()),
        lost=float(lost.mean()),
        queries=queries,
        rate=len(done.levels) / max(done.seconds, 1e-9),
    )


def block_interval(
    rows: Sequence[Floats], statistic: Callable[[list[Floats]], float], *, seed: int = 0, draws: int = 500
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of a statistic of per-request figures, drawn in blocks, paired."""
    count = len(rows[0])
    if count < 2 * BLOCK:
        return float("nan"), float("nan")
    # Every figure used here is a function of means, and a block's mean stands for its requests.
    edges = np.arange(0, count - BLOCK + 1, BLOCK)
    blocks = [np.add.reduceat(row[: edges[-1] + BLOCK], edges) / BLOCK for row in rows]
    picks = np.random.default_rng(seed).integers(0, len(edges), (draws, len(edges)))
    samples = [statistic([block[pick] for block in blocks]) for pick in picks]
    low, high = np.percentile(samples, [2.5, 97.5])
    return float(low), float(high)


@dataclass(frozen=True)
class Advice:
    """Which policy and size to use, and why, in a sentence."""

    row: Row
    reason: str


def recommend(rows: Sequence[Row]) -> Advice:
    """Recommend the smallest cache that saves nearly as much as the best one does, and its best policy."""
    best = max(rows, key=lambda row: row.saved)
    enough = [row for row in rows if row.saved >= GOOD_ENOUGH * best.saved]
    smallest = min(row.budget for row in enough)
    chosen = max((row for row in enough if row.budget == smallest), key=lambda row: row.saved)
    if best.saved <= 0:
        return Advice(chosen, "no cache that was tried saves anything on this log: leave approximate hits off")
    if chosen is best:
        same = [row for row in rows if row.policy == chosen.policy and row.budget > chosen.budget]
        tail = "; larger ones save no more" if same else "; it is the largest that was tried, so try larger ones too"
        return Advice(chosen, f"it saves most: {chosen.saved:.1%} of all steps{tail}")
    kept = chosen.saved / best.saved
    return Advice(
        chosen,
        f"the smallest cache that saves at least {GOOD_ENOUGH:.0%} of what the best one does: {chosen.saved:.1%} of "
        f"all steps, {kept:.1%} of the {best.saved:.1%} of {best.policy} with "
        f"{best.budget / chosen.budget:.3g} times the bytes",
    )
