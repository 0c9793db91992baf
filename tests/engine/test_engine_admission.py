"""Who may enter the loop and who steps next: budgets, fairness between shapes, deadlines, memory."""

import time

import numpy as np
import pytest
from engine_helpers import SIDE, alone, drive, finish, spec
from hypothesis import given
from hypothesis import strategies as st

from policies.admission.fair_share import FairShare
from service.engine.admission import MAX_GROUPS, Budget, WaitingRoom, budget_for, step_pixels
from service.engine.base import JobFailed, JobResult, Lora
from service.engine.loop import StepLoop
from service.engine.peak import PeakMemory

AREA = SIDE * SIDE


def room(pipeline, jobs=4, pixels=8 * AREA, waiting=()):
    made = WaitingRoom(Budget(jobs, pixels), pipeline.info, most_loras=2)
    for item in waiting:
        made.add(item, 0.0)
    return made


def names(entering):
    return [waiting.spec.job_id for waiting in entering]


class TestAdmission:
    def test_a_guided_picture_counts_twice(self, pipeline):
        assert step_pixels(spec(), pipeline.info) == 2 * AREA
        assert step_pixels(spec(guidance_scale=1.0), pipeline.info) == AREA
        assert budget_for(pipeline.info, 3, 0) == Budget(3, 6 * AREA)
        assert budget_for(pipeline.info, 3, 99) == Budget(3, 99)

    def test_first_come_first_served_up_to_the_budget(self, pipeline):
        waiting = room(pipeline, jobs=3, waiting=[spec(name) for name in "abcd"])
        assert names(waiting.admit([])) == ["a", "b", "c"]
        assert names(waiting.admit([spec("a"), spec("b"), spec("c")])) == []
        assert names(waiting.admit([spec("b"), spec("c")])) == ["d"]

    def test_pixels_bound_a_batch_too(self, pipeline):
        waiting = room(pipeline, pixels=5 * AREA, waiting=[spec(name) for name in "abc"])
        assert names(waiting.admit([])) == ["a", "b"]

    def test_a_picture_larger_than_the_budget_enters_alone(self, pipeline):
        large = [spec(name, width=256, height=256) for name in "ab"]
        waiting = room(pipeline, waiting=large)
        assert names(waiting.admit([])) == ["a"]
        assert names(waiting.admit([large[0]])) == []
        assert names(waiting.admit([])) == ["b"]

    def test_a_full_shape_does_not_hold_up_another(self, pipeline):
        waiting = room(pipeline, jobs=2, waiting=[*(spec(name) for name in "abc"), spec("wide", width=64)])
        assert names(waiting.admit([])) == ["a", "b", "wide"]

    def test_within_a_shape_nobody_is_overtaken(self, pipeline):
        waiting = room(pipeline, pixels=3 * AREA, waiting=[spec("a"), spec("b"), spec("c", guidance_scale=1.0)])
        assert names(waiting.admit([])) == ["a"]

    def test_beyond_so_many_shapes_everybody_queues(self, pipeline):
        shapes = [spec(str(i), width=SIDE * (i + 1)) for i in range(MAX_GROUPS + 1)]
        waiting = room(pipeline, waiting=[*shapes, spec("late", width=SIDE)])
        assert names(waiting.admit([])) == [str(i) for i in range(MAX_GROUPS)]
        assert names(waiting.admit(shapes[1:MAX_GROUPS])) == [str(MAX_GROUPS), "late"][:1]

    def test_no_more_loras_are_active_than_stay_loaded(self, pipeline):
        def dressed(name, *names, scale=1.0):
            return spec(name, loras=tuple(Lora(one, one, scale) for one in names))

        waiting = room(pipeline, waiting=[dressed("a", "x", "y"), dressed("b", "x", scale=0.5), dressed("c", "z")])
        assert names(waiting.admit([])) == ["a", "b"]
        assert names(waiting.admit([dressed("b", "x", scale=0.5)])) == ["c"]
        waiting = room(pipeline, waiting=[dressed("d", "x", "y", "z"), spec("e")])
        assert names(waiting.admit([])) == ["d"]

    @given(st.lists(st.tuples(st.integers(1, 4), st.booleans()), max_size=30), st.integers(1, 4), st.integers(1, 9))
    def test_everybody_enters_sooner_or_later(self, pipeline, wishes, jobs, pixels):
        items = [
            spec(str(i), width=SIDE * size, guidance_scale=3.0 if guided else 1.0)
            for i, (size, guided) in enumerate(wishes)
        ]
        waiting, active, entered = room(pipeline, jobs, pixels * AREA, items), [], []
        while len(waiting):
            active += [one.spec for one in waiting.admit(active)]
            entered.append(active.pop(0).job_id)
            for group in {one.group for one in active}:
                mates = [one for one in active if one.group == group]
                cost = sum(step_pixels(one, pipeline.info) for one in mates)
                assert len(mates) == 1 or (len(mates) <= jobs and cost <= pixels * AREA)
        assert len({*entered, *(one.job_id for one in active)}) == len(items)


class TestFairness:
    def test_the_least_charged_goes_next(self):
        share = FairShare()
        turns = []
        for _ in range(9):
            turns.append(share.pick({"large": 1, "small": 1}))
            share.charge(turns[-1], {"large": 8.0, "small": 1.0}[turns[-1]], 1)
        assert turns.count("small") == 8

    def test_time_is_counted_per_job(self):
        share = FairShare()
        seconds = {"one": 0.0, "three": 0.0}
        for _ in range(400):
            turn = share.pick({"one": 1, "three": 3})
            share.charge(turn, 1.0, {"one": 1, "three": 3}[turn])
            seconds[turn] += 1.0
        assert seconds["three"] == pytest.approx(3 * seconds["one"], rel=0.05)

    def test_who_arrives_late_has_no_arrears_and_no_credit(self):
        share = FairShare()
        for _ in range(50):
            share.charge(share.pick({"old": 1}), 1.0, 1)
        turns = []
        for _ in range(10):
            turns.append(share.pick({"old": 1, "new": 1}))
            share.charge(turns[-1], 1.0, 1)
        assert turns.count("new") == 5

    def test_small_pictures_pass_a_large_one(self, pipeline):
        """A picture sixteen times as large is under way; small ones are not slowed to its pace."""
        loop = StepLoop(pipeline, max_batch=2)
        loop.submit(spec("large", width=4 * SIDE, height=4 * SIDE, steps=12), 0.0)
        loop.tick()
        for i in range(4):
            loop.submit(spec(f"small-{i}", steps=4), 0.0)
        assert list(finish(loop))[-1] == "large"


class TestDeadline:
    def test_waiting_and_running_jobs_are_given_up(self, pipeline):
        loop = StepLoop(pipeline, max_batch=1)
        for name in "ab":
            loop.submit(spec(name, deadline=time.monotonic() + 0.2, steps=200), 0.0)
        loop.tick()
        time.sleep(0.2)
        ends = finish(loop)
        assert {name: end.code for name, end in ends.items()} == {"a": "deadline", "b": "deadline"}

    def test_a_job_in_time_is_not(self, pipeline):
        result = drive(StepLoop(pipeline), spec(deadline=time.monotonic() + 3600))["a"]
        assert isinstance(result, JobResult)


class TestDecoder:
    def test_other_rows_step_while_a_picture_is_decoded(self, pipeline):
        class Slow:
            info = pipeline.info

            def __getattr__(self, name):
                return getattr(pipeline, name)

            def decode(self, latents):
                time.sleep(0.5)
                return pipeline.decode(latents)

        loop = StepLoop(Slow(), max_batch=2, decode_beside=True)
        loop.submit(spec("short", steps=1), 0.0)
        loop.submit(spec("long", steps=20), 0.0)
        ticks = []
        while not loop.idle:
            ticks.append([event for event in loop.tick() if isinstance(event, JobResult | JobFailed)])
        steps_beside = next(i for i, ends in enumerate(ticks) if ends)
        assert steps_beside > 3
        np.testing.assert_array_equal(ticks[steps_beside][0].image, alone(pipeline, spec(steps=1)).image)

    def test_a_job_cancelled_while_it_is_decoded_brings_nothing(self, pipeline):
        loop = StepLoop(pipeline, decode_beside=True)
        loop.submit(spec(steps=1, preview_every=1), 0.0)
        loop.tick()
        loop.cancel("a")
        loop.submit(spec("b", steps=2), 0.0)
        assert list(finish(loop)) == ["b"]


class FakeMeter:
    """Stands for a device whose memory holds so many rows: none can be watched on a CPU."""

    def __init__(self, per_job, free):
        self.per_job, self.total, self.jobs = per_job, free, 0

    def start(self):
        pass

    def peak(self):
        return 100 + self.per_job * self.jobs

    def free(self):
        return self.total


class TestPeakMemory:
    def test_without_a_meter_nothing_is_limited(self):
        memory = PeakMemory(None)
        with memory.watch((32, 32), 8):
            pass
        assert memory.most((32, 32)) is None

    def test_the_largest_forward_speaks(self):
        meter = FakeMeter(per_job=50, free=1000)
        memory = PeakMemory(meter)
        assert memory.most((1, 1)) is None
        for meter.jobs, most in ((1, 6), (4, 12), (2, 12)):
            with memory.watch((1, 1), meter.jobs):
                pass
            assert memory.most((1, 1)) == most
        meter.total = 10
        assert memory.most((1, 1)) == 1
        assert memory.most((2, 2)) is None

    def test_batches_are_split_before_memory_runs_out(self, pipeline):
        sizes = []
        meter = FakeMeter(per_job=100, free=400)

        class Counting:
            info = pipeline.info

            def __getattr__(self, name):
                return getattr(pipeline, name)

            def predict(self, rows):
                meter.jobs = len(rows.latents)
                sizes.append(meter.jobs)
                return pipeline.predict(rows)

        ends = drive(StepLoop(Counting(), max_batch=6, meter=meter), *(spec(str(i), steps=3) for i in range(6)))
        assert len(ends) == 6
        assert sizes[0] == 6
        assert max(sizes[1:]) <= 3
