"""What feature caching holds and gives back, what it does when things go wrong, and what it says of itself."""

import logging
import math
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from engine_helpers import drive, finish, point, spec
from feature_helpers import (
    FAMILIES,
    TracedCaches,
    asking,
    by_itself,
    is_unet,
    layer,
    on,
    plain,
    shelf_of,
    with_recipe,
)
from lora_helpers import lora, shelf, write_lora
from mix_helpers import Bare, assert_close, clean

from benchmarks.tiny_model import build_tiny_model
from policies.features.base import BlockStack, Output, Predictor, Recipe, UNetSkip
from policies.features.static import Interval
from service.engine.base import JobFailed, JobResult
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop


@pytest.fixture(scope="module", params=FAMILIES)
def family(families, request):
    return families(request.param)


@pytest.fixture(scope="module")
def one(families):
    """The family where any will do."""
    return families("pixart-sigma")


@dataclass(frozen=True)
class Exploding(Predictor):
    """An extrapolation gone wrong."""

    weight: float = math.nan

    @property
    def depth(self):
        return 1

    def weights(self, now, history, steps):
        return (self.weight,)


@dataclass
class Faulty:
    """A pipeline whose network fails at given evaluations, in the middle of what it does for feature caching."""

    pipeline: Bare
    failing: tuple[int, ...]
    error: Exception = field(default_factory=lambda: RuntimeError("as ordered"))
    calls: int = 0

    def __getattr__(self, name):
        return getattr(self.pipeline, name)

    def predict(self, rows):
        self.calls += 1
        denoised = self.pipeline.predict(rows)
        if self.calls - 1 in self.failing:
            raise self.error
        return denoised


def inner(family):
    return UNetSkip(0) if is_unet(family) else BlockStack()


def loop_of(pipeline, *items, **settings):
    loop = StepLoop(pipeline, **settings)
    for item in items:
        loop.submit(item, 0.0)
    return loop


class TestMemory:
    @pytest.mark.parametrize("policy", ["interval", "ab-cache", "cfg-cache+taylorseer"])
    def test_is_what_was_reckoned_at_most_and_nothing_in_the_end(self, family, policy):
        if not family.network.pairs:
            policy = policy.removeprefix("cfg-cache+")
        items = [asking(policy, 0.5, name, **on(family, steps=6)) for name in "ab"]
        caches = TracedCaches(family)
        most = sum(map(caches.bytes_of, items))
        loop, seen = loop_of(family, *items, caches=caches), []
        assert most > 0
        while not loop.idle:
            loop.tick()
            seen.append(loop.stats.feature_bytes)
        assert 0 < max(seen) <= most
        assert seen[-1] == 0

    def test_is_given_back_whatever_ends_a_job(self, one, monkeypatch):
        late = asking("interval", 1.0, "late", **on(one, deadline=math.inf))
        gone = asking("interval", 1.0, "gone", **on(one))
        failed = asking("interval", 1.0, "failed", **on(one))
        loop = loop_of(one, late, gone)
        loop.tick()
        both = loop.stats.feature_bytes
        loop.cancel("gone")
        assert loop.stats.feature_bytes == both / 2
        monkeypatch.setattr("service.engine.loop.time.monotonic", lambda: math.inf)
        assert [event.code for event in loop.tick()] == ["deadline"]
        assert loop.stats.feature_bytes == 0
        monkeypatch.undo()
        broken = loop_of(Faulty(one, (3, 4)), failed)
        for _ in range(3):
            broken.tick()
        assert broken.stats.feature_bytes > 0
        broken.tick()
        assert broken.stats.feature_bytes == 0
        assert isinstance(broken.tick()[-1], JobFailed)
        assert broken.stats.feature_bytes == 0
        assert broken.idle

    def test_is_forgotten_where_the_gate_sends_a_job_elsewhere(self, family):
        early, late = clean(family, spec(**on(family, capture=(0.25, 0.5)))).captured
        caches = TracedCaches(family)
        items = [
            asking("interval", 1.0, "refused", **on(family, resume=(point(late, -1.0),))),
            asking("interval", 1.0, "deeper", **on(family, resume=(point(early, deeper=(point(late),)),))),
        ]
        loop = loop_of(family, *items, caches=caches)
        loop.tick()
        # What the judging step has made belongs to an attempt that is over.
        assert loop.stats.feature_bytes == 0
        ends = finish(loop)
        assert caches.pattern("refused") == "10000000"
        assert caches.pattern("refused", 0) == "1"
        assert caches.pattern("deeper", 0) == "1"
        assert caches.pattern("deeper")[0] == "1"
        assert (ends["deeper"].deeper, ends["refused"].wasted) == (0, 1)
        assert (ends["refused"].features.computed, ends["refused"].features.reused) == (2, 7)
        assert loop.stats.feature_bytes == 0
        whole = by_itself(family, replace(items[0], resume=()))
        assert_close(ends["refused"].image, whole.result.image, rounded=False)

    def test_a_full_budget_lets_jobs_wait_but_never_the_only_one(self, one):
        items = [asking("interval", 1.0, name, **on(one, steps=4)) for name in "abc"]
        wanted = TracedCaches(one).bytes_of(items[0])
        caches = TracedCaches(one, budget=wanted * 2)
        loop = loop_of(one, *items, plain(replace(items[0], job_id="plain")), caches=caches)
        loop.tick()
        # Only one that remembers nothing passes the one that waits.
        assert (loop.stats.active, loop.stats.waiting) == (3, 1)
        ends = finish(loop)
        assert {result.features.reason for name, result in ends.items() if name != "plain"} == {None}
        tight = loop_of(one, *items[:2], caches=TracedCaches(one, budget=wanted))
        tight.tick()
        assert (tight.stats.active, tight.stats.waiting) == (1, 1)
        assert all(isinstance(end, JobResult) and end.features.reused for end in finish(tight).values())

    def test_what_is_too_large_runs_without(self, family):
        item = asking("interval", 1.0, **on(family, steps=3))
        caches = TracedCaches(family, budget=TracedCaches(family).bytes_of(item) - 1)
        assert caches.bytes_of(item) == 0
        result = drive(StepLoop(family, caches=caches), item)["a"]
        report = result.features
        assert (report.reason, report.reused, report.state_bytes, report.compute_share) == ("too-large", 0, 0, 1.0)
        np.testing.assert_array_equal(result.image, clean(family, plain(item)).image)


class TestFailures:
    @pytest.mark.parametrize("site", ["inner", "output"])
    def test_what_is_not_finite_runs_once_more_without(self, family, site):
        recipe = Recipe((layer(inner(family) if site == "inner" else Output(), Interval(4), Exploding()),))
        caches = TracedCaches(family, recipes={"own": recipe})
        mate = asking("interval", 0.5, "mate", **on(family, seed=3))
        item = asking("own", **on(family))
        ends = drive(StepLoop(family, caches=caches), item, mate)
        report = ends["a"].features
        assert (report.reason, report.computed, report.reused) == ("not-finite", 1, 1)
        assert ends["a"].wasted == 2
        reference = clean(family, plain(item)).image
        np.testing.assert_allclose(ends["a"].image, reference, rtol=0, atol=1e-5 * max(1.0, np.abs(reference).max()))
        alone = by_itself(family, mate)
        assert caches.pattern("mate") == alone.pattern

    def test_states_of_the_run_that_went_wrong_are_not_kept(self, one):
        recipe = Recipe((layer(inner(one), Interval(4), Exploding()),))
        run = with_recipe(one, recipe, capture=(0.125, 0.5))
        assert run.result.features.reason == "not-finite"
        assert [(state.skip, state.approximated) for state in run.result.captured] == [(0.125, False), (0.5, False)]

    def test_a_failed_forward_leaves_nothing_half_taken(self, family):
        """Its batch is tried again in halves; both decide as alone, and nothing of the failure is remembered."""
        items = [asking("interval", 1.0, name, **on(family, seed=seed)) for seed, name in enumerate("ab")]
        caches = TracedCaches(family)
        ends = drive(StepLoop(Faulty(family, (3,)), caches=caches), *items)
        for item in items:
            single = by_itself(family, item)
            assert caches.pattern(item.job_id) == single.pattern == "10000000"
            assert_close(ends[item.job_id].image, single.result.image, rounded=False)
        assert ends["a"].evaluations == 8

    def test_one_that_fails_goes_on_without_feature_caching(self, family):
        item = asking("interval", 1.0, "a", **on(family))
        result = drive(StepLoop(Faulty(family, (1,))), item)["a"]
        assert (result.features.reason, result.features.reused, result.evaluations) == ("error", 0, item.steps)
        np.testing.assert_array_equal(result.image, clean(family, plain(item)).image)

    def test_one_that_fails_leaves_nothing_to_the_next(self, family):
        first, second = (asking("interval", 1.0, name, **on(family, seed=n)) for n, name in enumerate("ab"))
        single = by_itself(family, second)
        loop = loop_of(Faulty(family, (2, 3)), first)
        assert finish(loop)["a"].code == "internal"
        loop.submit(second, 0.0)
        np.testing.assert_array_equal(finish(loop)["b"].image, single.result.image)
        assert loop.stats.feature_bytes == 0

    def test_what_cannot_even_be_opened_runs_plain(self, one, caplog):
        class Broken(TracedCaches):
            def recipe(self, spec, choice, first_step):
                raise KeyError("as ordered")

        item = asking("interval", **on(one, steps=3))
        with caplog.at_level(logging.ERROR):
            result = drive(StepLoop(one, caches=Broken(one)), item)["a"]
        assert result.features.reason == "error"
        assert "without feature caching" in caplog.text
        np.testing.assert_array_equal(result.image, clean(one, plain(item)).image)

    def test_a_broken_device_is_not_taken_for_a_refusal(self, one):
        class Gone(TracedCaches):
            def recipe(self, spec, choice, first_step):
                raise torch.AcceleratorError("as ordered")

        with pytest.raises(torch.AcceleratorError):
            drive(StepLoop(one, caches=Gone(one)), asking("interval", **on(one)))


class TestAccounts:
    def test_evaluations_are_counted(self, family):
        items = [asking("interval", 1.0, "a", **on(family)), spec("plain", **on(family))]
        loop = loop_of(family, *items)
        ends = finish(loop)
        report = ends["a"].features
        assert loop.stats.feature_evaluations == {"computed": 1, "reused": 7}
        assert (report.computed, report.reused, ends["plain"].features) == (1, 7, None)

    def test_device_time_is_shared_by_what_was_executed(self, one):
        recipe = Recipe((layer(Output(), Interval(8)),))
        items = [asking("own", 1.0, "a", **on(one)), spec("plain", **on(one)), spec("half", **on(one))]
        items[2] = replace(items[2], guidance_scale=1.0)
        loop = loop_of(one, *items, caches=TracedCaches(one, recipes={"own": recipe}))
        loop.tick()
        jobs = {job.spec.job_id: job for job in loop._active}
        assert [jobs[name].network_rows for name in ("a", "plain", "half")] == [2, 2, 1]
        before = {name: job.denoise_seconds for name, job in jobs.items()}
        assert before["a"] == pytest.approx(before["plain"])
        loop.tick()
        # The whole output was reused: nothing was executed.
        assert jobs["a"].network_rows == 0
        assert jobs["a"].denoise_seconds == before["a"]
        spent = {name: jobs[name].denoise_seconds - before[name] for name in ("plain", "half")}
        assert spent["plain"] == pytest.approx(2 * spent["half"])

    def test_a_forward_that_nobody_needed_takes_its_time_all_the_same(self, one):
        recipe = Recipe((layer(Output(), Interval(8)),))
        items = [asking("own", 1.0, name, **on(one)) for name in "ab"]
        loop = loop_of(one, *items, caches=TracedCaches(one, recipes={"own": recipe}))
        loop.tick()
        first, second = loop._active
        before = first.denoise_seconds
        loop.tick()
        assert first.denoise_seconds == pytest.approx(second.denoise_seconds)
        assert first.denoise_seconds > before

    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_compute_share_of_a_reused_output(self, family, guidance):
        recipe = Recipe((layer(Output(), Interval(4)),))
        run = with_recipe(family, recipe, guidance_scale=guidance)
        assert run.result.features.compute_share == pytest.approx(1 / 4)

    def test_compute_share_of_guidance_and_branch(self, families):
        family = families("stable-diffusion")
        run = by_itself(family, asking("cfg-cache", 0.25, **on(family, steps=9)))
        assert run.pattern == "111010101"
        assert run.result.features.compute_share == pytest.approx((6 * 2 + 3) / 18)


class TestLoras:
    def test_a_calibration_is_for_the_bare_model(self, tmp_path):
        folder = build_tiny_model(tmp_path / "model")
        file = write_lora(StableDiffusionPipeline, folder, tmp_path / "style.safetensors", unet=4)
        dressed = Bare(load_pipeline(str(folder), "cpu", "float32", shelf(tmp_path)))
        item = asking("cachequant", 1.0, **on(dressed, steps=5))
        artefacts = tmp_path / "artefacts"
        artefacts.mkdir()
        found = shelf_of(dressed, artefacts, [item])
        bare = by_itself(dressed, item, shelf=found).result.features
        assert (bare.reason, bare.reused > 0) == (None, True)
        worn = replace(item, loras=(lora(file),))
        assert by_itself(dressed, worn, shelf=found).result.features.reason == "uncalibrated"
        other = replace(worn, features=replace(worn.features, policy="interval"))
        run = by_itself(dressed, other)
        assert (run.result.features.reason, run.pattern) == (None, "10000")
        reference = clean(dressed, plain(worn)).image
        assert not np.array_equal(run.result.image, reference)
        assert not np.array_equal(clean(dressed, plain(item)).image, reference)
