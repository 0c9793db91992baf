"""Tenants share the device, whatever each of them sends."""

from collections import Counter

import pytest
from engine_helpers import spec

from service.engine.admission import Budget, WaitingRoom
from service.engine.base import JobResult
from service.engine.loop import StepLoop


def room(pipeline, jobs=1):
    return WaitingRoom(Budget(jobs, 10**9), pipeline.info, most_loras=2)


def serve(waiting, rounds, seconds=1.0):
    """Let jobs in one by one, each for so long, and return whose they were."""
    turns = []
    for _ in range(rounds):
        entering = waiting.admit([])
        turns += [one.spec.tenant for one in entering]
        for one in entering:
            waiting.settle(one.spec, seconds)
    return turns


def test_tenants_take_turns_though_one_came_first_with_many(pipeline):
    waiting = room(pipeline)
    for number in range(6):
        waiting.add(spec(f"crowd{number}", tenant="crowd"), 0.0)
    for number in range(3):
        waiting.add(spec(f"lone{number}", tenant="lone"), 0.0)
    turns = serve(waiting, 9)
    assert Counter(turns[:6]) == {"crowd": 3, "lone": 3}
    assert turns[6:] == ["crowd"] * 3


def test_a_weight_is_a_share(pipeline):
    waiting = room(pipeline)
    for number in range(30):
        waiting.add(spec(f"a{number}", tenant="a", weight=3.0), 0.0)
        waiting.add(spec(f"b{number}", tenant="b"), 0.0)
    turns = Counter(serve(waiting, 24))
    assert turns["a"] == pytest.approx(18, abs=1)


def test_large_pictures_count_for_what_they_take(pipeline):
    waiting = room(pipeline)
    for number in range(12):
        waiting.add(spec(f"long{number}", tenant="long", steps=30), 0.0)
        waiting.add(spec(f"short{number}", tenant="short", steps=10), 0.0)
    turns = []
    for _ in range(12):
        (entering,) = waiting.admit([])
        turns.append(entering.spec.tenant)
        waiting.settle(entering.spec, entering.spec.steps / 10)
    assert turns.count("short") == pytest.approx(9, abs=1)


def test_one_tenant_alone_is_served_in_order_of_arrival(pipeline):
    waiting = room(pipeline, jobs=3)
    for name in "abc":
        waiting.add(spec(name, tenant="only"), 0.0)
    assert [one.spec.job_id for one in waiting.admit([])] == ["a", "b", "c"]


def test_the_loop_charges_what_was_used_and_tells_its_pace(pipeline):
    loop = StepLoop(pipeline, max_batch=1)
    for number in range(3):
        loop.submit(spec(f"crowd{number}", tenant="crowd"), 0.0)
    loop.submit(spec("lone", tenant="lone"), 0.0)
    order = []
    while not loop.idle:
        order += [event for event in loop.tick() if isinstance(event, JobResult)]
    assert [one.job_id for one in order].index("lone") == 1
    for result in order:
        assert result.tick_seconds >= result.step_seconds > 0
        assert result.tick_pixels > 0
