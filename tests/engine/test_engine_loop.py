"""The one loop: joint batches, resuming, the gate, and everything that may go wrong."""

import gc
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import SIDE, alone, drive, finish, point, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.engine.base import JobFailed, JobResult, Progress
from service.engine.job import Job, capture_steps, plan_route
from service.engine.loop import StepLoop

SHARES = (0.25, 0.5)


class Wrapped:
    """A pipeline with one method tampered with."""

    def __init__(self, pipeline, **methods):
        self._pipeline = pipeline
        self.__dict__.update(methods)

    def __getattr__(self, name):
        return getattr(self._pipeline, name)


@pytest.fixture(scope="module")
def full(pipeline):
    return alone(pipeline, spec(capture=SHARES))


def grid_times(pipeline, steps, solver="ddim"):
    return list(pipeline.grid(solver, steps, SIDE, SIDE).times)


def assert_same(image, other, levels=0):
    assert np.abs(image.astype(int) - other.astype(int)).max() <= levels


def test_capture_steps():
    assert capture_steps((0.1, 0.2, 0.3, 0.4, 0.5), 50) == (5, 10, 15, 20, 25)
    assert capture_steps((0.01, 0.5, 0.51, 0.999), 4) == (2,)
    assert capture_steps((0.5,), 1) == ()


class TestResume:
    @pytest.mark.parametrize("which", [0, 1])
    def test_from_its_own_state_a_run_is_the_same_run(self, pipeline, full, which):
        item = spec("b", capture=SHARES, resume=(point(full.captured[which], max_divergence=0.0),))
        result = alone(pipeline, item)
        assert_same(result.image, full.image)
        assert result.divergences == (0.0,)
        assert (result.resumed, result.skipped, result.wasted) == (0, (2, 4)[which], 0)
        later = full.captured[which + 1 :]
        assert [s.skip for s in result.captured] == [s.skip for s in later]
        for mine, theirs in zip(result.captured, later, strict=True):
            np.testing.assert_array_equal(mine.latent, theirs.latent)
            np.testing.assert_array_equal(mine.prediction, theirs.prediction)
            assert mine.depth == 1

    def test_what_is_captured(self, pipeline, full):
        assert [s.timestep for s in full.captured] == [grid_times(pipeline, 8)[k] for k in (2, 4)]
        assert [s.skip for s in full.captured] == [0.25, 0.5]
        for state in full.captured:
            assert (state.latent.shape, state.latent.dtype) == ((4, 16, 16), np.float16)
            assert (state.prediction.shape, state.prediction.dtype) == ((4, 8, 8), np.float16)
            level = pipeline.level(state.timestep)
            assert state.log_snr == pytest.approx(math.log(level.alpha**2 / level.sigma**2))
            assert state.depth == 0

    def test_the_clean_latent_comes_back(self, pipeline, full):
        clean = full.final
        assert (clean.latent.shape, clean.latent.dtype) == ((4, 16, 16), np.float16)
        assert (clean.depth, clean.approximated) == (0, False)
        decoded = pipeline.decode(torch.tensor(clean.latent).float()[None])[0]
        assert_same(decoded, full.image, levels=1)  # half precision rounds it
        resumed = alone(pipeline, spec("b", resume=(point(full.captured[1]),)))
        assert resumed.final.depth == 1
        np.testing.assert_array_equal(resumed.final.latent, clean.latent)

    def test_another_n_enters_at_the_noise_level_not_at_the_index(self, pipeline):
        source = alone(pipeline, spec(steps=50, capture=(0.1, 0.3)))
        for state in source.captured:
            item = spec("b", steps=30, capture=(0.1, 0.2, 0.5), resume=(point(state),))
            route = plan_route(pipeline, item, state.timestep)
            assert route.times[0] == state.timestep
            grid = grid_times(pipeline, 30)
            assert list(route.times[1:]) == [t for t in grid if t < state.timestep]
            assert route.levels[0].log_snr == pytest.approx(state.log_snr)
            result = alone(pipeline, item)
            assert result.skipped == 30 - len(route.times) == round(30 * state.skip)
            assert all(kept.timestep < state.timestep for kept in result.captured)
            assert [kept.timestep for kept in result.captured] == [
                grid[k] for k in (3, 6, 15) if grid[k] < state.timestep
            ]

    @pytest.mark.parametrize("solver", ["euler", "euler_ancestral"])
    def test_solvers_without_memory_resume_exactly(self, pipeline, solver):
        source = alone(pipeline, spec(solver=solver, steps=20, capture=SHARES))
        for state in source.captured:
            item = spec("b", solver=solver, steps=20, capture=SHARES, resume=(point(state, 0.0),))
            again = alone(pipeline, item)
            assert again.skipped == round(20 * state.skip)
            assert_same(again.image, source.image)

    @pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc"])
    def test_solvers_with_memory_resume_with_a_first_order_step(self, pipeline, solver):
        source = alone(pipeline, spec(solver=solver, steps=20, capture=(0.5,)))
        again = alone(pipeline, spec("b", solver=solver, steps=20, resume=(point(source.captured[0], 0.0),)))
        assert again.skipped == 10
        assert_same(again.image, source.image, levels=4)

    @pytest.mark.parametrize("solver", ["euler", "dpmpp_2m", "unipc", "euler_ancestral"])
    def test_a_state_may_cross_solvers(self, pipeline, full, solver):
        result = alone(pipeline, spec("b", solver=solver, resume=(point(full.captured[0]),)))
        assert result.skipped == 2

    def test_a_state_taken_under_ddim_50_is_resumed_under_euler_30_by_noise_level(self, pipeline):
        source = alone(pipeline, spec(steps=50, capture=(0.2,)))
        item = spec("b", solver="euler", steps=30, resume=(point(source.captured[0], 0.0),))
        result = alone(pipeline, item)
        assert result.skipped == 6
        assert result.divergences == (0.0,)
        assert_same(result.image, source.image, levels=6)

    def test_fresh_noise_is_a_function_of_seed_and_step(self, pipeline):
        one, same = (alone(pipeline, spec(name, solver="euler_ancestral")) for name in "ab")
        other = alone(pipeline, spec("c", solver="euler_ancestral", seed=8))
        assert_same(one.image, same.image)
        assert np.abs(one.image.astype(int) - other.image).max() > 6

    def test_points_that_do_not_fit_are_passed_over_at_no_cost(self, pipeline, full):
        state = full.captured[1]
        broken = state.latent.copy()
        broken[0, 0, 0] = np.nan
        item = spec(
            "b",
            capture=SHARES,
            resume=(
                point(state, latent=np.zeros((4, 8, 8), np.float16)),
                point(state, latent=broken),
                point(state, log_snr=state.log_snr + 1),
                point(state, timestep=999.0, log_snr=-19.0),
                point(state, timestep=math.nan),
                point(state),
            ),
        )
        result = alone(pipeline, item)
        assert (result.resumed, result.skipped, result.wasted) == (5, 4, 0)
        assert np.isnan(result.divergences[:5]).all()
        assert_same(result.image, full.image)

    def test_a_point_without_prediction_is_not_judged(self, pipeline, full):
        result = alone(pipeline, spec("b", capture=SHARES, resume=(point(full.captured[0], -1.0, prediction=None),)))
        assert result.resumed == 0
        assert math.isnan(result.divergences[0])
        assert_same(result.image, full.image)

    def test_rounding_depends_on_the_shares_alone(self, pipeline, full):
        assert_same(alone(pipeline, spec("b", capture=SHARES)).image, full.image)
        latents = []
        spy = Wrapped(pipeline, predict=lambda rows: latents.append(rows.latents) or pipeline.predict(rows))
        alone(spy, spec("c", capture=SHARES))
        exact = [bool((x == x.half().float()).all()) for x in latents]
        assert exact == [False, False, True, False, True, False, False, False]


class TestGate:
    def test_refused_entries_cost_one_step_each_and_end_in_a_full_run(self, pipeline, full):
        points = (point(full.captured[1], -1.0), point(full.captured[0], -1.0))
        result = alone(pipeline, spec("b", capture=SHARES, resume=points))
        assert (result.resumed, result.skipped, result.wasted) == (None, 0, 2)
        assert result.divergences == (0.0, 0.0)
        assert [s.depth for s in result.captured] == [0, 0]
        assert_same(result.image, full.image)

    def test_the_next_entry_is_tried(self, pipeline, full):
        points = (point(full.captured[1], -1.0), point(full.captured[0], 0.0))
        result = alone(pipeline, spec("b", capture=SHARES, resume=points))
        assert (result.resumed, result.skipped, result.wasted) == (1, 2, 1)
        assert_same(result.image, full.image)

    def test_another_prompt_diverges_more_than_the_same(self, pipeline, full):
        item = spec("b", prompt="something else", resume=(point(full.captured[0]),))
        assert alone(pipeline, item).divergences[0] > 0.0

    def test_one_judgement_sends_the_run_to_the_deepest_state_it_allows(self, pipeline, full):
        early, late = full.captured
        for bound, ends in ((1e9, (4, 1, 0)), (-1.0, (2, 0, None))):
            entry = point(early, deeper=(point(late, bound),))
            result = alone(pipeline, spec("b", prompt="something else", capture=SHARES, resume=(entry,)))
            assert (result.skipped, result.wasted, result.deeper) == ends
            assert result.resumed == 0
            assert len(result.divergences) == 1

    def test_a_run_sent_deeper_is_the_run_that_enters_there(self, pipeline, full):
        early, late = full.captured
        item = spec("b", prompt="something else", capture=SHARES)
        sent = alone(pipeline, replace(item, resume=(point(early, deeper=(point(late),)),)))
        straight = alone(pipeline, replace(item, resume=(point(late),)))
        assert_same(sent.image, straight.image)
        assert sent.denoise_seconds == pytest.approx(sent.step_seconds * 5)

    def test_a_run_sent_deeper_keeps_the_state_it_was_judged_at(self, pipeline, full):
        early, late = full.captured
        for bound, skips in ((1e9, [early.skip, 0.75]), (-1.0, [early.skip, late.skip, 0.75])):
            entry = point(early, deeper=(point(late, bound),))
            item = spec("b", prompt="something else", capture=(*SHARES, 0.75), resume=(entry,))
            captured = alone(pipeline, item).captured
            assert [state.skip for state in captured] == skips
            assert captured[0].depth == 1
            np.testing.assert_array_equal(captured[0].latent, early.latent)
            assert (captured[0].prediction != early.prediction).any()

    def test_a_run_with_nothing_more_to_capture_keeps_no_copy_of_its_source(self, pipeline, full):
        early, late = full.captured
        item = spec("b", prompt="something else", capture=SHARES, resume=(point(early, deeper=(point(late),)),))
        assert alone(pipeline, item).captured == ()

    def test_a_longer_runs_states_are_judged_although_the_first_saves_nothing_here(self, pipeline):
        source = alone(pipeline, spec(steps=50, capture=(0.1, 0.5)))
        early, late = source.captured
        for bound, ends in ((1e9, (4, 1, 0, 0)), (-1.0, (0, 1, None, None))):
            entry = point(early, deeper=(point(late, bound),))
            result = alone(pipeline, spec("b", prompt="something else", resume=(entry,)))
            assert (result.skipped, result.wasted, result.resumed, result.deeper) == ends

    def test_deeper_states_that_do_not_fit_are_passed_over(self, pipeline, full):
        early, late = full.captured
        broken = point(late, latent=np.full_like(late.latent, np.nan))
        entry = point(early, -1.0, deeper=(broken, point(late)))
        result = alone(pipeline, spec("b", resume=(entry,)))
        assert (result.skipped, result.deeper) == (4, 1)
        result = alone(pipeline, spec("c", resume=(point(early, -1.0, deeper=(broken,)), point(late))))
        assert (result.resumed, result.deeper, result.skipped, result.wasted) == (1, None, 4, 1)

    def test_a_broken_prediction_is_refused(self, pipeline, full):
        broken = full.captured[0].prediction.copy()
        broken[0, 0, 0] = np.nan
        result = alone(pipeline, spec("b", capture=SHARES, resume=(point(full.captured[0], prediction=broken),)))
        assert (result.resumed, result.wasted) == (None, 1)
        assert_same(result.image, full.image)

    def test_progress_tells_every_entry(self, pipeline, full):
        loop = StepLoop(pipeline)
        loop.submit(spec("b", resume=(point(full.captured[1], -1.0), point(full.captured[0]))), 0.0)
        steps = []
        while not loop.idle:
            steps += [(e.first_step, e.step) for e in loop.tick() if isinstance(e, Progress)]
        assert steps == [(4, 4), (2, 2), *((2, k) for k in range(3, 9))]


JOBS = st.fixed_dictionaries(
    {
        "prompt": st.sampled_from(["a red cube", "two blue balls", "x"]),
        "negative_prompt": st.sampled_from(["", "green"]),
        "seed": st.integers(0, 3),
        "steps": st.sampled_from([3, 5, 8]),
        "guidance_scale": st.sampled_from([1.0, 2.0, 5.0]),
        "solver": st.sampled_from(["ddim", "euler", "dpmpp_2m", "unipc", "euler_ancestral"]),
        "width": st.sampled_from([32, 48]),
        "capture": st.sampled_from([(), SHARES]),
    }
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), jobs=st.lists(JOBS, min_size=2, max_size=6), budget=st.integers(1, 4))
def test_batch_mates_change_nothing(pipeline, full, data, jobs, budget):
    """Random mixes of N, K, guidance, solver, size, arrival and cancellation: every picture is its own."""
    specs = []
    for i, fields in enumerate(jobs):
        resume = data.draw(st.sampled_from([(), (point(full.captured[0]),), (point(full.captured[1], -1.0),)]))
        specs.append(spec(str(i), **fields, resume=resume))
    cancelled = data.draw(st.sets(st.sampled_from([s.job_id for s in specs]), max_size=2))
    loop, ends = StepLoop(pipeline, max_batch=budget), {}
    for item in specs:
        loop.submit(item, 0.0)
        for _ in range(data.draw(st.integers(0, 3))):
            ends.update({e.job_id: e for e in loop.tick() if isinstance(e, JobResult)})
    for job_id in cancelled:
        loop.cancel(job_id)
    ends.update(finish(loop))
    assert {s.job_id for s in specs} - set(ends) <= cancelled
    for item in specs:
        if item.job_id in ends:
            single = alone(pipeline, item)
            assert_same(ends[item.job_id].image, single.image, levels=1)
            assert ends[item.job_id].skipped == single.skipped


class TestWhatMayGoWrong:
    def test_cancelled_jobs_take_part_in_no_further_step(self, pipeline):
        loop = StepLoop(pipeline, max_batch=2)
        for name in "abc":
            loop.submit(spec(name), 0.0)
        loop.tick()
        loop.cancel("a")
        loop.cancel("c")
        loop.cancel("never heard of")
        assert (loop.stats.active, loop.stats.waiting) == (1, 0)
        assert list(finish(loop)) == ["b"]
        assert loop.stats.batch_sizes == {2: 1, 1: 7}

    def test_a_latent_that_is_not_finite_is_run_once_more_in_full(self, pipeline, full):
        calls = []

        def predict(rows):
            calls.append(1)
            denoised = pipeline.predict(rows)
            return denoised * math.nan if len(calls) == 3 else denoised

        item = spec("b", capture=SHARES, resume=(point(full.captured[0]),))
        result = alone(Wrapped(pipeline, predict=predict), item)
        assert (result.resumed, result.skipped, result.wasted) == (None, 0, 3)
        assert_same(result.image, full.image)

    def test_a_latent_that_is_never_finite_fails_and_harms_nobody(self, pipeline, full):
        def predict(rows):
            denoised = pipeline.predict(rows).clone()
            denoised[rows.guidance == 9.0] = math.inf
            return denoised

        bad, good = spec("bad", guidance_scale=9.0), spec("good", capture=SHARES)
        ends = drive(StepLoop(Wrapped(pipeline, predict=predict)), bad, good)
        assert ends["bad"].code == "not-finite"
        assert_same(ends["good"].image, full.image, levels=1)

    def test_too_little_memory_splits_the_batch(self, pipeline):
        sizes = []

        def predict(rows):
            sizes.append(len(rows.latents))
            if len(rows.latents) > 2:
                raise torch.OutOfMemoryError("no")
            return pipeline.predict(rows)

        loop = StepLoop(Wrapped(pipeline, predict=predict), max_batch=8)
        ends = drive(loop, *(spec(str(i), steps=3) for i in range(6)))
        assert len(ends) == 6
        assert all(isinstance(end, JobResult) for end in ends.values())
        assert sizes == [6, 3, 2, 2, 2] + [2, 2, 2] * 2
        assert drive(loop, spec("later"))["later"].steps == 8

    def test_too_little_memory_for_one_row_fails_that_job(self, pipeline):
        def predict(rows):
            if rows.latents.shape[-1] > 16:
                raise torch.OutOfMemoryError("no")
            return pipeline.predict(rows)

        ends = drive(StepLoop(Wrapped(pipeline, predict=predict)), spec("wide", width=64), spec("narrow"))
        assert ends["wide"] == JobFailed("wide", "out-of-memory", ends["wide"].message)
        assert isinstance(ends["narrow"], JobResult)

    def test_a_job_that_breaks_the_network_fails_alone(self, pipeline, caplog):
        def predict(rows):
            if (rows.guidance == 9.0).any():
                raise RuntimeError("secret /path")
            return pipeline.predict(rows)

        items = [spec(str(i), guidance_scale=9.0 if i == 3 else 2.0) for i in range(5)]
        ends = drive(StepLoop(Wrapped(pipeline, predict=predict)), *items)
        assert ends["3"].code == "internal"
        assert "secret" not in ends["3"].message
        assert "secret" not in caplog.text
        assert [record.error for record in caplog.records if record.levelname == "ERROR"] == ["RuntimeError"]
        assert sum(isinstance(end, JobResult) for end in ends.values()) == 4

    def test_a_broken_device_is_not_hidden(self, pipeline):
        def predict(rows):
            raise torch.AcceleratorError("device-side assert")

        with pytest.raises(torch.AcceleratorError):
            drive(StepLoop(Wrapped(pipeline, predict=predict)), spec())

    def test_a_decoder_failure_fails_the_job_and_spares_previews(self, pipeline):
        def decode(latents):
            raise RuntimeError("no picture")

        loop = StepLoop(Wrapped(pipeline, decode=decode))
        assert drive(loop, spec(preview_every=2))["a"].code == "internal"
        assert loop.idle

    def test_bad_requests_fail_at_admission(self, pipeline, caplog):
        loop = StepLoop(pipeline)
        ends = drive(loop, spec("solver", solver="nope"), spec("steps", steps=5000), spec("good"))
        assert (ends["solver"].code, ends["steps"].code) == ("internal", "internal")
        assert [bool(record.at) and record.exc_info is None for record in caplog.records] == [True, True]
        assert isinstance(ends["good"], JobResult)

    def test_retired_jobs_leave_nothing_behind(self, pipeline, full):
        loop = StepLoop(pipeline)
        drive(loop, spec("a"), spec("b", resume=(point(full.captured[0]),)), spec("c", solver="dpmpp_2m"))
        loop.submit(spec("d"), 0.0)
        loop.tick()
        loop.cancel("d")
        gc.collect()
        assert not [thing for thing in gc.get_objects() if type(thing) is Job]


class TestAccounts:
    def test_device_time_is_shared_by_network_rows(self, pipeline):
        ends = drive(StepLoop(pipeline), spec("two"), spec("one", guidance_scale=1.0))
        assert ends["two"].denoise_seconds == pytest.approx(2 * ends["one"].denoise_seconds)
        assert ends["two"].step_seconds == pytest.approx(ends["two"].denoise_seconds / 8)
        assert ends["two"].decode_seconds == ends["one"].decode_seconds > 0

    def test_wasted_steps_are_paid_for(self, pipeline, full):
        result = alone(pipeline, spec("b", resume=(point(full.captured[1], -1.0),)))
        assert result.denoise_seconds == pytest.approx(9 * result.step_seconds)

    def test_progress_tells_the_device_time_so_far_thrown_away_steps_included(self, pipeline, full):
        loop = StepLoop(pipeline)
        loop.submit(spec("b", resume=(point(full.captured[1], -1.0),)), 0.0)
        events = []
        while not loop.idle:
            events += loop.tick()
        *heard, result = events
        times = [event.denoise_seconds for event in heard]
        assert [(event.first_step, event.step) for event in heard] == [(4, 4), *((0, k) for k in range(9))]
        assert times[0] == 0.0
        assert all(earlier < later for earlier, later in itertools.pairwise(times))
        assert times[-1] == result.denoise_seconds

    def test_waiting_counts_as_queueing(self, pipeline):
        import time

        loop = StepLoop(pipeline, max_batch=1)
        now = time.monotonic()
        loop.submit(spec("first"), now)
        loop.submit(spec("second"), now)
        ends = finish(loop)
        assert ends["second"].queue_seconds >= ends["first"].queue_seconds + ends["first"].denoise_seconds

    def test_previews_show_the_prediction(self, pipeline):
        loop = StepLoop(pipeline)
        loop.submit(replace(spec(), preview_every=3), 0.0)
        shown = []
        while not loop.idle:
            shown += [e for e in loop.tick() if isinstance(e, Progress) and e.preview is not None]
        assert [e.step for e in shown] == [3, 6]
        assert shown[0].preview.shape == (32, 32, 3)
