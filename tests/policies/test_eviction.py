"""One contract for every eviction policy, and what each of them is for."""

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eviction import POLICIES, EvictionPolicy, Item, Key, lhd, make_eviction

BUDGET = 1000
Step = tuple[str, Key, int]

keys = st.tuples(st.integers(1, 8), st.integers(-1, 1))
steps = st.lists(st.tuples(st.sampled_from(("add", "use", "remove", "victim", "evict")), keys, st.integers(0, 5)))


def item(key: Key, nbytes: int = 100, page: int | None = None) -> Item:
    skip = 0.3 + 0.2 * key[1]
    return Item(skip, 10 * skip, nbytes, key[0] if page is None else page)


def replay(policy: EvictionPolicy, history: Iterable[Step]) -> list[Key | None]:
    """Drive `policy`, check it against a set, and return its victims."""
    held: set[Key] = set()
    victims: list[Key | None] = []
    for verb, key, number in history:
        if verb == "add":
            policy.add(key, item(key, 50 + 50 * number), number if number > 3 else 0)
            held.add(key)
        elif verb == "use":
            policy.use(key)
        elif verb == "remove":
            policy.remove(key)
            held.discard(key)
        else:
            spared = {other for other in held if other[0] <= number}
            victims.append(policy.victim(spared))
            assert policy.victim(spared) == victims[-1]
            assert (victims[-1] is None) == (held <= spared)
            assert victims[-1] is None or victims[-1] in held - spared
            if verb == "evict" and victims[-1] is not None:
                policy.remove(victims[-1])
                held.remove(victims[-1])
        assert len(policy) == len(held)
        assert all((other in policy) == (other in held) for other in {*held, key})
    while held:  # everything goes in the end
        last = policy.victim()
        assert last is not None
        policy.remove(last)
        held.remove(last)
        victims.append(last)
    assert policy.victim() is None
    return victims


@pytest.mark.parametrize("name", sorted(POLICIES))
class TestEvictionContract:
    @given(history=steps)
    @settings(max_examples=200)
    def test_holds_what_was_added_and_names_one_that_may_go(self, name: str, history: list[Step]) -> None:
        first = replay(make_eviction(name, BUDGET), history)
        assert replay(make_eviction(name, BUDGET), history) == first

    @given(history=steps)
    def test_adding_again_and_unknown_keys_change_nothing(self, name: str, history: list[Step]) -> None:
        noisy: list[Step] = [("remove", (99, 0), 0), ("use", (99, 0), 0)]
        held: set[Key] = set()
        for step in history:
            verb, key, number = step
            noisy += [step, ("use", (99, 0), 0), ("remove", (99, 0), 0)]
            if verb == "add":
                noisy.append(("add", key, 5 - number))
            held.add(key)
        assert replay(make_eviction(name, BUDGET), noisy) == replay(make_eviction(name, BUDGET), history)

    def test_holds_more_than_the_budget_until_told_otherwise(self, name: str) -> None:
        policy = make_eviction(name, 0)
        for number in range(1, 50):
            policy.add((number, 0), item((number, 0)))
        assert len(policy) == 49

    def test_a_used_state_outlives_an_equal_one(self, name: str) -> None:
        if name == "fifo":
            pytest.skip("FIFO does not look at uses")
        policy = make_eviction(name, BUDGET)
        for number in range(1, 11):
            policy.add((number, 0), item((number, 0)))
        for _ in range(3):
            policy.use((1, 0))
        victims = [policy.victim()]
        for _ in range(8):
            assert victims[-1] is not None
            policy.remove(victims[-1])
            victims.append(policy.victim())
        assert (1, 0) not in victims

    def test_states_in_use_are_passed_over_quickly(self, name: str) -> None:
        """Not by looking at all others: 20,000 victims beside a pinned one, in well under a test's time."""
        policy = make_eviction(name, 100 * 20_001)
        for number in range(20_001):
            policy.add((number, 0), item((number, 0)))
        spared = frozenset({(0, 0), (7, 0)})
        for _ in range(19_999):
            victim = policy.victim(spared)
            assert victim is not None
            policy.remove(victim)
        assert policy.victim(spared) is None
        assert len(policy) == 2

    def test_the_same_history_at_a_restart(self, name: str) -> None:
        policy = make_eviction(name, BUDGET)
        for number, uses in ((1, 0), (2, 4), (3, 0)):
            policy.add((number, 0), item((number, 0)), uses)
        assert policy.victim() == (1, 0)
        assert policy.replay in ("use", "age")

    def test_name_is_the_one_it_is_known_by(self, name: str) -> None:
        policy = make_eviction(name, BUDGET)
        assert isinstance(policy, EvictionPolicy)
        assert (policy.name, policy.budget) == (name, BUDGET)
        with pytest.raises(ValueError, match="budget must not be negative"):
            make_eviction(name, -1)


def drain(policy: EvictionPolicy) -> list[int]:
    gone = []
    while (victim := policy.victim()) is not None:
        policy.remove(victim)
        gone.append(victim[0])
    return gone


OLD, DEEP, NEW = (1, -1), (2, 1), (3, 1)  # skip 0.1, 0.5, 0.5


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lcbfu", [3, 1, 2]),  # 0 x 0.5 < 3 x 0.1 < 1 x 0.5
        ("lfu", [3, 2, 1]),
        ("fifo", [1, 2, 3]),
        ("lru", [2, 1, 3]),
        ("sieve", [3, 1, 2]),
        ("gdsf", [1, 3, 2]),  # 4 x 1 < 1 x 5 < 2 x 5 (seconds)
    ],
)
def test_what_goes_first(name: str, expected: list[int]) -> None:
    policy = make_eviction(name, BUDGET)
    policy.add(OLD, item(OLD))
    policy.add(DEEP, item(DEEP))
    policy.use(DEEP)
    for _ in range(3):
        policy.use(OLD)
    policy.add(NEW, item(NEW))
    assert drain(policy) == expected


def test_lcbfu_is_as_published() -> None:
    """Uses from 0 times the share skipped, the smallest first, the oldest of equals, and no ageing."""
    policy = make_eviction("lcbfu", BUDGET)
    uses = {(1, -1): 5, (2, 1): 1, (3, 0): 0, (4, 1): 0, (5, 0): 2, (6, -1): 6}
    for key in uses:
        policy.add(key, item(key))
    for key, count in reversed(uses.items()):
        for _ in range(count):
            policy.use(key)
    expected = sorted(uses, key=lambda key: (uses[key] * item(key).skip, key))
    assert drain(policy) == [key[0] for key in expected]


@given(history=st.lists(st.tuples(keys, st.integers(0, 3))))
def test_gdsf_is_the_published_score_computed_naively(history: list[tuple[Key, int]]) -> None:
    """The lazy heap names the victim that scoring everything anew at each use would."""
    policy = make_eviction("gdsf", BUDGET)
    scores: dict[Key, tuple[float, int]] = {}
    uses: dict[Key, int] = {}
    floor = 0.0
    for now, (key, number) in enumerate(history):
        gain = item(key, 100).saved_seconds / 100
        if key in scores:
            uses[key] += 1
            policy.use(key)
        else:
            uses[key] = 0
            policy.add(key, item(key, 100))
        scores[key] = (floor + (1 + uses[key]) * gain, now)
        if number == 0:
            least = min(scores, key=lambda other: scores[other])
            assert policy.victim() == least
            policy.remove(least)
            floor = scores.pop(least)[0]


def test_gdsf_prefers_small_states_and_forgets_former_winners() -> None:
    policy = make_eviction("gdsf", BUDGET)
    policy.add((1, 0), item((1, 0), nbytes=100))
    policy.add((2, 0), item((2, 0), nbytes=50))
    assert policy.victim() == (1, 0)
    for _ in range(3):
        policy.use((2, 0))
    for number in range(3, 100):  # a stream of newcomers, each larger and never used
        policy.add((number, 0), item((number, 0), nbytes=100))
        victim = policy.victim()
        assert victim is not None
        policy.remove(victim)
    assert (2, 0) not in policy


def test_s3_fifo_remembers_the_need_and_not_the_entry() -> None:
    policy = make_eviction("s3-fifo", 1000)
    for number in range(1, 11):
        policy.add((number, 0), item((number, 0)))
    assert policy.victim() == (1, 0)
    policy.remove((1, 0))
    policy.add((50, 0), item((50, 0), page=1))  # answers what entry 1 would have answered: into the main queue
    policy.add((51, 0), item((51, 0)))  # newcomer, on probation
    order = drain(policy)
    assert order.index(51) < order.index(3) < order.index(50)


def test_unknown_name_says_what_exists() -> None:
    with pytest.raises(ValueError, match="unknown eviction policy 'nope'; known: fifo, gdsf, lcbfu"):
        make_eviction("nope", BUDGET)


def test_lhd_forgets_noise_levels_that_nobody_has_any_more(monkeypatch) -> None:
    monkeypatch.setattr(lhd, "_FADE", 0.5)
    policy = lhd.LHD(BUDGET)
    for number in range(30_000):
        policy.add((number, number // 100), Item(0.3, 1.0, 100, number))
        if number >= 10:
            policy.remove((number - 10, (number - 10) // 100))
    assert len(policy) == 10
    assert policy.victim() is not None
    assert len(policy._density) < 70
