"""One contract for every eviction policy, and what each of them is for."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.eviction import POLICIES, EvictionPolicy, StateStats, make_eviction


@st.composite
def stats(draw: st.DrawFn) -> StateStats:
    created = draw(st.integers(0, 10**9))
    last_used = draw(st.integers(created, created + 10**9))
    return StateStats(
        uses=draw(st.integers(0, 10**6)),
        skip=draw(st.floats(0.01, 0.99)),
        nbytes=draw(st.integers(1, 10**9)),
        created=created,
        last_used=last_used,
        now=draw(st.integers(last_used, last_used + 10**9)),
    )


@pytest.mark.parametrize("name", sorted(POLICIES))
class TestEvictionContract:
    @given(stats=stats())
    def test_scores_are_finite_and_pure(self, name: str, stats: StateStats) -> None:
        score = make_eviction(name).score(stats)
        assert math.isfinite(score)
        assert score == make_eviction(name).score(stats)

    @given(stats=stats())
    def test_a_use_never_hurts(self, name: str, stats: StateStats) -> None:
        policy = make_eviction(name)
        used = StateStats(
            stats.uses + 1, stats.skip, stats.nbytes, stats.created, max(stats.now, stats.last_used), stats.now
        )
        assert policy.score(used) >= policy.score(stats)

    def test_name_is_the_one_it_is_known_by(self, name: str) -> None:
        policy = make_eviction(name)
        assert isinstance(policy, EvictionPolicy)
        assert policy.name == name


def order(name: str, *states: StateStats) -> list[int]:
    policy = make_eviction(name)
    return sorted(range(len(states)), key=lambda i: (policy.score(states[i]), states[i].created))


OLD_AND_USED = StateStats(uses=3, skip=0.1, nbytes=1, created=1, last_used=10, now=20)
DEEP_AND_USED = StateStats(uses=1, skip=0.5, nbytes=1, created=2, last_used=5, now=20)
NEW = StateStats(uses=0, skip=0.5, nbytes=1, created=15, last_used=15, now=20)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("lcbfu", [2, 0, 1]), ("lfu", [2, 1, 0]), ("fifo", [0, 1, 2]), ("lru", [1, 0, 2])],
)
def test_what_goes_first(name: str, expected: list[int]) -> None:
    assert order(name, OLD_AND_USED, DEEP_AND_USED, NEW) == expected


def test_lcbfu_is_uses_times_skip() -> None:
    assert make_eviction("lcbfu").score(OLD_AND_USED) == pytest.approx(0.3)
    assert make_eviction("lcbfu").score(NEW) == 0.0


def test_unknown_name_says_what_exists() -> None:
    with pytest.raises(ValueError, match="unknown eviction policy 'nope'; known: fifo, lcbfu"):
        make_eviction("nope")
