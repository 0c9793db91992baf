"""The schedule is pure mathematics: properties that hold for every log and every choice."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.arrivals import PROCESSES, Arrivals, arrival_times, scaled_times
from loadtest.mixes import Mix, read_sizes, read_steps
from loadtest.prompt_log import LogRow
from loadtest.schedule import Request, Wishes, build_schedule, digest_of, share_of
from loadtest.tenants import draw_tenants

# Logs tell times to the millisecond; the quotient of two far smaller numbers is anything.
MILLISECONDS = st.integers(0, 10**9).map(lambda count: count / 1000)
DRAWN = [process for process in PROCESSES if process != "log"]
arrivals = st.builds(
    Arrivals,
    process=st.sampled_from(DRAWN),
    rate=st.floats(0.01, 1000),
    cv=st.floats(0.2, 5),
    on=st.floats(0.5, 60),
    off=st.floats(0, 60),
)


def log_of(count: int, *, timed: bool = True, users: int = 5) -> list[LogRow]:
    return [
        LogRow(line, f"prompt {line}", float(line) if timed else None, f"u{line % users}" if users else None)
        for line in range(1, count + 1)
    ]


@given(arrivals, st.integers(1, 200), st.integers(0, 2**32))
def test_arrivals_start_at_zero_and_never_go_back(process: Arrivals, count: int, seed: int) -> None:
    process.check()
    times = arrival_times(process, count, np.random.default_rng(seed))
    assert len(times) == count
    assert times[0] == 0
    assert all(earlier <= later for earlier, later in pairwise(times))
    assert all(math.isfinite(time) for time in times)
    assert times == arrival_times(process, count, np.random.default_rng(seed)), "equal dice, equal times"


@pytest.mark.parametrize("process", DRAWN)
def test_mean_rate_is_the_one_asked_for(process: str) -> None:
    times = arrival_times(Arrivals(process, 20.0, cv=2.0, on=3.0, off=2.0), 20_000, np.random.default_rng(1))
    assert (len(times) - 1) / times[-1] == pytest.approx(20.0, rel=0.05)


@pytest.mark.parametrize(
    ("process", "cv", "seen"), [("uniform", 1, 0), ("poisson", 3, 1), ("gamma", 3, 3), ("gamma", 0.4, 0.4)]
)
def test_gaps_vary_as_asked(process: str, cv: float, seen: float) -> None:
    gaps = np.diff(arrival_times(Arrivals(process, 5.0, cv=cv), 40_000, np.random.default_rng(2)))
    assert gaps.std() / gaps.mean() == pytest.approx(seen, rel=0.06, abs=1e-6)


@given(st.floats(1, 20), st.floats(1, 20), st.integers(0, 1000))
def test_on_off_is_silent_between_its_periods(on: float, off: float, seed: int) -> None:
    process = Arrivals("on-off", 50.0 / (on + off), on=on, off=off)
    times = np.array(arrival_times(process, 300, np.random.default_rng(seed)))
    busy = np.split(times, np.flatnonzero(np.diff(times) >= off - 1e-6) + 1)
    assert max(part[-1] - part[0] for part in busy) <= on + 1e-6


@given(st.lists(MILLISECONDS, min_size=2, max_size=50).map(sorted), st.floats(0.01, 100))
def test_compression_keeps_the_shape(times: list[float], speed: float) -> None:
    times = [time - times[0] for time in times]
    assert scaled_times(times, speed=speed, rate=None) == [time / speed for time in times]
    if times[-1] > 0:
        faster = scaled_times(times, speed=1.0, rate=speed)
        assert (len(times) - 1) / faster[-1] == pytest.approx(speed)
        assert all(a / times[-1] == pytest.approx(b / faster[-1]) for a, b in zip(times, faster, strict=True))


@given(st.integers(1, 120), st.integers(1, 9))
def test_shares_are_a_partition(count: int, shares: int) -> None:
    schedule = build_schedule(log_of(count), Wishes())
    parts = [share_of(schedule, share, shares) for share in range(shares)]
    assert sorted(one.number for part in parts for one in part) == list(range(count)), "none twice, none lost"
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(part == sorted(part, key=lambda one: one.due or 0.0) for part in parts)


def test_a_share_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="share 2 of 2"):
        share_of([], 2, 2)


@given(arrivals, st.integers(0, 1000), st.integers(0, 4))
def test_equal_wishes_give_equal_schedules(process: Arrivals, dice: int, tenants: int) -> None:
    wishes = Wishes(process, 1.0, read_sizes("32x32:2,64x64"), read_steps("4,8:3"), tenants, 1.2, dice)
    first, again = build_schedule(log_of(40), wishes), build_schedule(log_of(40), wishes)
    assert first == again
    assert digest_of(first) == digest_of(again)
    assert digest_of(first) != digest_of(first[:-1])


def test_digest_sees_what_matters() -> None:
    bare = build_schedule(log_of(10), Wishes())
    others = [
        build_schedule(log_of(10), Wishes(speed=2.0)),
        build_schedule(log_of(10), Wishes(tenants=2)),
        build_schedule(log_of(10), Wishes(sizes=read_sizes("8x8"))),
        build_schedule(log_of(10), Wishes(steps=read_steps("9"))),
        build_schedule([*log_of(9), LogRow(10, "another prompt", 10.0, "u0")], Wishes()),
    ]
    assert len({digest_of(one) for one in [bare, *others]}) == 6


def test_another_mix_does_not_move_the_arrivals() -> None:
    process = Arrivals("poisson", 3.0)
    plain = build_schedule(log_of(50), Wishes(process))
    mixed = build_schedule(log_of(50), Wishes(process, sizes=read_sizes("32x32,64x64"), tenants=3))
    assert [one.due for one in plain] == [one.due for one in mixed]


def test_mixes_are_drawn_by_weight() -> None:
    drawn = Counter(read_steps("20:3,50:1").draw(8000, np.random.default_rng(0)))
    assert drawn["20"] / 8000 == pytest.approx(0.75, abs=0.03)
    assert set(drawn) == {"20", "50"}
    assert Mix().draw(2, np.random.default_rng(0)) == [None, None]


@pytest.mark.parametrize(
    "text", ["0x5", "512", "512x512:0", "512x512:-1", "512x512:nan", "512x512,,", "x", "9" * 9 + "x1"]
)
def test_bad_sizes_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="--sizes takes WIDTHxHEIGHT"):
        read_sizes(text)


@pytest.mark.parametrize("text", ["1001", "-1", "4.5", "20:x", "0,4"])
def test_bad_steps_are_named(text: str) -> None:
    with pytest.raises(ValueError, match="--steps takes 1 to 1000"):
        read_steps(text)


def test_sizes_and_steps_of_the_log() -> None:
    rows = [LogRow(1, "p", 0.0, size="512x768", steps="30"), LogRow(2, "q", 1.0)]
    first, second = build_schedule(rows, Wishes(sizes=read_sizes("log"), steps=read_steps("log")))
    assert first.body("off") == {
        "prompt": "p", "cache": {"mode": "off"}, "size": "512x768", "num_inference_steps": 30,
    }  # fmt: skip
    assert second.body("auto") == {"prompt": "q", "cache": {"mode": "auto"}}
    assert (first.asked, second.asked) == ("512x768, 30 steps", "default size, default steps")
    assert build_schedule(rows, Wishes())[0].size is None, "only where asked for"
    with pytest.raises(ValueError, match="line 3 of the log: column 'steps'"):
        build_schedule([LogRow(3, "p", 0.0, steps="many")], Wishes(steps=read_steps("log")))


@given(st.integers(1, 8), st.floats(0, 3), st.integers(0, 1000))
def test_a_user_stays_with_one_tenant(count: int, skew: float, seed: int) -> None:
    rows = log_of(60, users=7)
    drawn = draw_tenants(rows, count, skew, np.random.default_rng(seed))
    homes: dict[str | None, set[int]] = {}
    for row, tenant in zip(rows, drawn, strict=True):
        homes.setdefault(row.user, set()).add(tenant)
    assert all(len(home) == 1 for home in homes.values())
    assert all(0 <= tenant < count for tenant in drawn)


def test_tenants_follow_zipf() -> None:
    drawn = Counter(draw_tenants(log_of(30_000, users=0), 4, 1.0, np.random.default_rng(5)))
    total = 1 + 1 / 2 + 1 / 3 + 1 / 4
    for rank in range(4):
        assert drawn[rank] / 30_000 == pytest.approx(1 / (rank + 1) / total, abs=0.015)
    even = Counter(draw_tenants(log_of(30_000, users=0), 4, 0.0, np.random.default_rng(5)))
    assert max(even.values()) / min(even.values()) < 1.1


def test_a_log_without_times_is_closed_loop_unless_a_process_is_given() -> None:
    rows = log_of(5, timed=False)
    assert [one.due for one in build_schedule(rows, Wishes())] == [None] * 5
    assert build_schedule(rows, Wishes(Arrivals("uniform", 2.0)))[-1].due == pytest.approx(2.0)
    with pytest.raises(ValueError, match="--rate needs a log with times"):
        build_schedule(rows, Wishes(Arrivals(rate=2.0)))
    with pytest.raises(ValueError, match="--rate needs a log whose times differ"):
        build_schedule([LogRow(1, "p", 0.0), LogRow(2, "q", 0.0)], Wishes(Arrivals(rate=2.0)))


@pytest.mark.parametrize(
    ("process", "complaint"),
    [
        (Arrivals("poisson"), "needs --rate"),
        (Arrivals("poisson", 0.0), "--rate must be above 0"),
        (Arrivals("gamma", 1.0, cv=math.nan), "--cv must be above 0"),
        (Arrivals("on-off", 1.0, on=0.0), "--on must be above 0"),
        (Arrivals("on-off", 1.0, off=-1.0), "--off must not be negative"),
        (Arrivals("pareto", 1.0), "--arrivals must be one of"),
    ],
)
def test_bad_arrivals_are_named(process: Arrivals, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        process.check()


def test_a_request_knows_its_body() -> None:
    request = Request(0, LogRow(1, "a ball", seed=4), 0.0, None, "64x32", 7)
    assert request.body("exact")["seed"] == 4
