"""The oracle is Belady's algorithm where savings and sizes are equal, and weighs them where they are not."""

from hypothesis import given, settings
from hypothesis import strategies as st

from policies.eviction import Item
from policies.eviction.oracle import Oracle
from policies.eviction.parsimonious.evaluation import optimal_faults


def faults(trace: list[int], k: int, batch: int) -> int:
    future: dict[tuple[int, int], list[float]] = {}
    for t, page in enumerate(trace):
        future.setdefault((page, 0), []).append(float(t))
    policy, count = Oracle(k, future, batch=batch), 0
    for t, page in enumerate(trace):
        policy.advance(t)
        if (page, 0) in policy:
            policy.use((page, 0))
            continue
        count += 1
        while len(policy) >= k:
            victim = policy.victim()
            assert victim is not None
            policy.remove(victim)
        policy.add((page, 0), Item(0.5, 1.0, 1, page))
    return count


@given(trace=st.lists(st.integers(0, 9), max_size=100), k=st.integers(1, 6))
@settings(deadline=None)
def test_equals_belady_in_exact_match_mode(trace: list[int], k: int) -> None:
    assert faults(trace, k, batch=1) == optimal_faults(trace, k)


def test_weighs_saving_size_and_time() -> None:
    future = {(1, 0): [10.0], (2, 0): [10.0], (3, 0): [100.0], (4, 0): []}
    items = {1: Item(0.5, 4.0, 1, 1), 2: Item(0.5, 4.0, 8, 2), 3: Item(0.5, 4.0, 1, 3), 4: Item(0.9, 9.0, 1, 4)}
    policy = Oracle(10, future)
    policy.advance(0)
    for number, item in items.items():
        policy.add((number, 0), item)
    gone = []
    while (victim := policy.victim(spared={(4, 0)} if not gone else ())) is not None:
        policy.remove(victim)
        gone.append(victim[0])
    assert gone == [3, 4, 2, 1]  # 4/100, (spared at first) never, 0.5/10, 4/10
    assert len(policy) == 0
