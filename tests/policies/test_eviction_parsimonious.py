"""F&R: the optimum when predictions are perfect, within the bound when they are hostile, and few questions asked."""

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eviction import Item, Parsimonious
from policies.eviction.parsimonious import GROWTHS, FollowAndRobust, OptimumCounter, ReusePredictor, noise_table
from policies.eviction.parsimonious.evaluation import NoisyOracle, lazy_run, lru_faults, optimal_faults
from policies.eviction.parsimonious.follow import schedule

traces = st.lists(st.integers(0, 9), max_size=120)


def drifting_zipf(seed: int, length: int = 4000, items: int = 400) -> list[int]:
    weights = np.arange(1, items + 1) ** -0.9
    drawn = np.random.default_rng(seed).choice(items, size=length, p=weights / weights.sum())
    return [int(i + 2 * (t // 40)) % items for t, i in enumerate(drawn)]


class Hostile:
    """Predicts the opposite of what will happen."""

    def __init__(self, trace: Sequence[int]) -> None:
        self._truth = NoisyOracle(trace, 0.0)

    def observe(self, page: int) -> None:
        self._truth.observe(page)

    def next_arrivals(self, pages: Sequence[int]) -> list[float]:
        return [-arrival for arrival in self._truth.next_arrivals(pages)]


@given(trace=traces, k=st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_the_optimum_counter_is_belady_on_every_prefix(trace: list[int], k: int) -> None:
    counter = OptimumCounter(k, 256)
    for end, page in enumerate(trace, 1):
        before = counter.faults
        assert counter.request(page) == (counter.faults > before)
        assert counter.faults == optimal_faults(trace[:end], k)


@given(trace=st.lists(st.integers(0, 9), min_size=50, max_size=200), k=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_a_short_window_only_counts_more_faults(trace: list[int], k: int) -> None:
    counter = OptimumCounter(k, 16)
    for page in trace:
        counter.request(page)
    assert optimal_faults(trace, k) <= counter.faults <= len(trace)


def test_the_window_bounds_memory() -> None:
    counter = OptimumCounter(10, 64)
    for page in range(5000):
        counter.request(page)
    assert len(counter._last) <= 64
    assert counter.faults == 5000


@pytest.mark.parametrize("growth", sorted(GROWTHS))
@given(trace=traces, k=st.integers(1, 7))
@settings(max_examples=80, deadline=None)
def test_perfect_predictions_give_the_optimum(growth: str, trace: list[int], k: int) -> None:
    predictor = NoisyOracle(trace, 0.0)
    core = FollowAndRobust(k, predictor, growth=GROWTHS[growth])
    faults, _ = lazy_run(trace, core, predictor)
    assert faults == core.faults == optimal_faults(trace, k)
    assert core.mode == "follower"


@given(trace=traces, k=st.integers(1, 7), sigma=st.sampled_from([0.0, 1.0, 9.0]), spacing=st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_never_more_than_k_pages_and_the_requested_one_among_them(
    trace: list[int], k: int, sigma: float, spacing: int
) -> None:
    predictor = NoisyOracle(trace, sigma)
    core = FollowAndRobust(k, predictor, spacing=spacing)
    inside: set[int] = set()
    for page in trace:
        predictor.observe(page)
        held = page in core.cached
        assert core.request(page) == held
        assert page in core.cached
        assert len(core.cached) <= k
        for other, came in core.changes:
            inside.add(other) if came else inside.discard(other)
        core.changes.clear()
        assert inside == set(core.cached)


BOUND = 4  # faults <= BOUND x (1 + ln k) x OPT + 2k


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["loop", "uniform", "zipf", "phases"])
@pytest.mark.parametrize("k", [4, 16, 64])
def test_hostile_predictions_stay_within_the_bound(kind: str, k: int, seed: int) -> None:
    """Never more than c (1 + ln k) OPT + 2k faults, c = 4, whatever the predictor says.

    A loop over k + 1 pages makes LRU fault at every request, k times as often as the optimum.
    """
    length = 3000
    generator = np.random.default_rng(seed)
    trace = {
        "loop": [t % (k + 1) for t in range(length)],
        "uniform": generator.integers(0, k + 1, length).tolist(),
        "zipf": drifting_zipf(seed, length),
        "phases": [int(i) + (t // (3 * k)) % 3 * k // 2 for t, i in enumerate(generator.integers(0, k + 1, length))],
    }[kind]
    optimum = optimal_faults(trace, k)
    for predictor in (Hostile(trace), NoisyOracle(trace, 20.0, seed)):
        core = FollowAndRobust(k, predictor, seed=seed)
        faults, _ = lazy_run(trace, core, predictor)
        assert faults <= BOUND * (1 + math.log(k)) * optimum + 2 * k
        if kind == "loop":
            assert faults < lru_faults(trace, k)


def test_asks_only_on_faults_and_at_the_prescribed_arrivals() -> None:
    trace, k = drifting_zipf(4), 32
    for spacing in (1, 8):
        predictor = NoisyOracle(trace, 3.0)
        core = FollowAndRobust(k, predictor, spacing=spacing)
        asked: list[int] = []
        for t, page in enumerate(trace):
            predictor.observe(page)
            before, mode = core.queries, core.mode
            hit = core.request(page)
            assert core.queries - before <= 1
            if core.queries > before:
                asked.append(t)
                assert mode == "robust" or not hit
        assert min(np.diff(asked)) >= spacing


def test_bad_predictors_are_asked_less_than_always_following() -> None:
    trace, k = drifting_zipf(5), 32
    found = {}
    for alpha in (1.0, math.inf):
        predictor = NoisyOracle(trace, 20.0)
        found[alpha] = lazy_run(trace, FollowAndRobust(k, predictor, alpha=alpha), predictor)
    assert found[1.0][0] < 0.85 * found[math.inf][0]
    assert found[1.0][1] < 0.4 * found[math.inf][1]


def test_schedule_of_the_published_code() -> None:
    """The authors' code, k = 10: queries at arrivals 1, 6 and 9."""
    assert schedule(10, GROWTHS["linear"]) == ({1, 6, 9}, {1, 6, 9, 10})


def test_noise_table_has_every_comparison() -> None:
    rows = noise_table(drifting_zipf(6, 1500), 24, sigmas=(0.0, 5.0))
    by = {(row.algorithm, row.predictor): row for row in rows}
    oracle = by["oracle", "exact"].faults
    assert by["f&r alpha=1", "noise 0"].faults == by["follow-always", "noise 0"].faults == oracle
    assert all(row.faults >= oracle for row in rows)
    assert {row.predictor for row in rows} == {"exact", "none", "noise 0", "noise 5", "learned"}


def periodic(rounds: int) -> list[int]:
    """Pages 0-9 come back every 20 requests; between them pages that never do."""
    return [t // 2 % 10 if t % 2 == 0 else 1000 + t for t in range(rounds)]


def test_reuse_is_learned_from_the_log() -> None:
    trace = periodic(4000)
    learned = ReusePredictor().fit(trace)
    regular, single = learned.next_arrivals([trace[-2], trace[-1]])
    assert regular < single
    assert learned.next_arrivals([-5]) == [math.inf]


def test_what_was_learned_survives_as_json() -> None:
    learned = ReusePredictor().fit(periodic(4000))
    restored = ReusePredictor.load(json.loads(json.dumps(learned.dump())))
    for page in (1, 1, 1, 7):
        restored.observe(page)
    assert restored.next_arrivals([1])[0] < restored.next_arrivals([7])[0]
    with pytest.raises(ValueError, match="not what a reuse predictor has learned"):
        ReusePredictor.load({"version": 1, "reached": [[1.0]], "ended": [[2.0]]})


def test_learned_predictions_beat_lru_where_there_is_something_to_learn() -> None:
    """Scans flush LRU; the learned predictor sees that pages requested once do not return."""
    trace = periodic(6000)
    predictor = ReusePredictor()
    faults, queries = lazy_run(trace, FollowAndRobust(12, predictor, alpha=1.25), predictor)
    assert faults < 0.8 * lru_faults(trace, 12)
    assert 0 < queries <= faults


def test_memory_of_the_predictor_is_bounded() -> None:
    predictor = ReusePredictor(memory=100).fit(range(5000))
    assert len(predictor._pages) == 100
    assert sum(map(len, predictor._growing)) <= 5000


def test_a_bundle_is_one_page_and_goes_shallowest_first() -> None:
    policy = Parsimonious(1000)
    for entry in (1, 2, 3):
        for level in (0, 1):
            policy.add((entry, level), Item(0.2 + 0.1 * level, 1.0, 100, entry))
    assert policy.mode == "filling"
    assert policy.victim() == (1, 0)
    assert policy.mode == "follower"
    policy.use((1, 1))
    policy.add((4, 0), Item(0.2, 1.0, 100, 4))
    victim = policy.victim()
    assert victim is not None
    assert victim[0] != 4  # what was just requested is in the virtual cache
    assert policy.queries == 1
