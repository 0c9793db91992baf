"""Feature caching in joint batches: every job decides and ends as it would alone."""

from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import SIDE, finish, point, spec
from feature_helpers import (
    FAMILIES,
    TRANSFORMERS,
    TracedCaches,
    asking,
    by_itself,
    is_unet,
    layer,
    methods_of,
    on,
    plain,
    play_and_compare,
    shelf_of,
    with_recipe,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mix_helpers import BUILDERS, Arrival, Bare, assert_close, clean, play

from policies.features.base import BlockStack, Output, Recipe, SubLayer, UNetSkip
from policies.features.choice import FeatureChoice
from policies.features.dynamic import ProbeDistance
from policies.features.methods import METHODS
from policies.features.predictors import AdamsBashforth, Linear, Taylor
from policies.features.static import Interval
from service.engine.batch import Evaluator
from service.engine.foreign import METHODS as FOREIGN
from service.engine.foreign import Space
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop

SHARES = (0.25, 0.5)


@pytest.fixture(scope="module", params=FAMILIES)
def family(families, request):
    return families(request.param)


@pytest.fixture(scope="module")
def states(family):
    return clean(family, spec(**on(family, steps=8, capture=SHARES))).captured


@pytest.fixture(scope="module")
def shelf(family, tmp_path_factory):
    items = [spec(**on(family, steps=n, guidance_scale=g)) for n in (5, 8, 10) for g in (1.0, 3.0)]
    return shelf_of(family, tmp_path_factory.mktemp("shelf"), items)


def rounded(item):
    return bool(item.capture) or explodes(item.solver)


def explodes(solver):
    return solver in FOREIGN and FOREIGN[solver].space is Space.EXPLODING


def every_method(family, states):
    """A job for every method, no two alike in prompt, seed, N, guidance, entry and strength."""
    for number, method in enumerate(methods_of(family)):
        entry = ((), (point(states[0], prediction=None),), (point(states[1], -1.0), point(states[0])))[number % 3]
        item = asking(
            method,
            (0.5, 0.75, 1.0)[number % 3],
            method,
            prompt=("a red cube", "two blue balls", "x")[number % 3],
            seed=number,
            **on(family, steps=(10, 8, 5, 8)[number % 4], guidance_scale=(3.0, 1.0, 3.0)[number % 3]),
            resume=entry,
        )
        yield Arrival(item, (3 * number) % 5, None)


class TestTogether:
    def test_every_method_decides_and_ends_as_alone(self, family, states, shelf):
        plan = list(every_method(family, states))
        leaving = replace(plan[0].item, job_id="leaves"), replace(plan[1].item, job_id="goes")
        plan += [Arrival(item, 1, 4 + number) for number, item in enumerate(leaving)]
        plan.append(Arrival(plain(spec("without", **on(family))), 2, None))
        played, caches = play_and_compare(family, plan, rounded=rounded, shelf=shelf)
        done = played.results
        assert set(done) == {*methods_of(family), "without"}
        idle = {name for name, result in done.items() if result.features and result.features.reason}
        assert idle <= {"cfg-cache"}
        assert sum(bool(result.features and result.features.reused) for result in done.values()) >= len(done) / 2
        assert done["without"].features is None
        assert set(caches.traces) > {"goes", "leaves"}

    @settings(
        deadline=None,
        derandomize=True,
        max_examples=3,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(data=st.data())
    def test_whoever_comes_and_goes(self, family, states, shelf, data):
        solvers = family.info.solvers
        plan = []
        for number in range(data.draw(st.integers(2, 4))):
            choice = FeatureChoice(data.draw(st.sampled_from(methods_of(family))), data.draw(STRENGTHS))
            item = spec(
                str(number),
                prompt=data.draw(st.sampled_from(["a red cube", "x"])),
                seed=number,
                steps=data.draw(st.sampled_from([5, 8])),
                guidance_scale=data.draw(st.sampled_from([1.0, 3.0])),
                solver=data.draw(st.sampled_from(solvers)),
                width=data.draw(st.sampled_from([SIDE, SIDE, SIDE + 16])),
                capture=data.draw(st.sampled_from([(), SHARES])),
                features=data.draw(st.sampled_from([choice, choice, choice, None])),
            )
            if item.width == SIDE:
                resume = data.draw(st.sampled_from([(), (point(states[0]),), (point(states[1], -1.0),)]))
                item = replace(item, resume=resume)
            tick = data.draw(st.integers(0, 4))
            cut = data.draw(st.none() | st.none() | st.integers(0, 6))
            plan.append(Arrival(item, tick, None if cut is None else tick + cut))
        play_and_compare(family, plan, rounded=rounded, batch=data.draw(st.integers(1, 4)), shelf=shelf)

    def test_rows_cut_at_different_places_share_a_forward(self, family):
        recipes = different_cuts(family)
        plan = [
            Arrival(
                asking(name, 1.0, name, seed=number, **on(family, guidance_scale=(3.0, 1.0)[number % 2])), 0, None
            )
            for number, name in enumerate(recipes)
        ]
        plan.append(Arrival(spec("plain", **on(family)), 0, None))
        played, caches = play_and_compare(family, plan, rounded=rounded, recipes=recipes)
        # One forward per step, for all of them.
        assert played.rows == sum(result.evaluations for result in played.results.values())
        assert all("0" in caches.pattern(name) for name in recipes)

    def test_one_at_a_time_or_all_at_once(self, family):
        """A guided job's two rows share a forward with nobody, or with others."""
        items = [
            asking(name, 0.75, name, seed=number, **on(family, guidance_scale=3.0))
            for number, name in enumerate(("interval", "taylorseer", "cfg-cache+interval", "ab-cache"))
        ]
        ends, traces = [], []
        for limit in (1, 2, 4):
            caches = TracedCaches(family)
            loop = StepLoop(family, caches=caches)
            loop._forward = Evaluator(limit)
            for item in items:
                loop.submit(item, 0.0)
            ends.append(finish(loop))
            traces.append(caches.traces)
            assert set(loop.stats.batch_sizes) == {limit}
        assert traces[0] == traces[1] == traces[2]
        for end in ends[1:]:
            for item in items:
                assert_close(end[item.job_id].image, ends[0][item.job_id].image, rounded=False)


STRENGTHS = st.sampled_from([0.25, 0.5, 0.75, 1.0])


def different_cuts(family):
    often, seldom, near = Interval(2), Interval(3), ProbeDistance(np.inf, indicator="entry")
    if is_unet(family):
        return {
            "shallow": Recipe((layer(UNetSkip(0), seldom),)),
            "middle": Recipe((layer(UNetSkip(1), often),)),
            "probing": Recipe((layer(UNetSkip(1), near, max_reused=2),)),
            "deep": Recipe((layer(UNetSkip(2), often, Taylor(1)),)),
            "deepest": Recipe((layer(UNetSkip(3), seldom),)),
            "output": Recipe((layer(Output(), often, AdamsBashforth(2)),)),
        }
    kinds = family.network.backbone.kinds
    recipes = {
        "all": Recipe((layer(BlockStack(), seldom),)),
        "behind": Recipe((layer(BlockStack(1, 0), near, max_reused=2),)),
        "before": Recipe((layer(BlockStack(0, 1), often, Taylor(1)),)),
        "output": Recipe((layer(Output(), often),)),
        "both": Recipe((layer(BlockStack(1, 0), seldom), *(layer(SubLayer(kind), often) for kind in kinds))),
    }
    for number, kind in enumerate(kinds):
        recipes[kind] = Recipe((layer(SubLayer(kind), Interval(2 + number), Linear(0.5)),))
    return recipes


class TestOneAfterAnother:
    def test_nothing_is_left_of_one_that_goes(self, family):
        first = asking("interval", 1.0, "a", seed=1, **on(family))
        second = asking("interval", 1.0, "b", seed=2, **on(family))
        single = by_itself(family, second)
        loop = StepLoop(family, caches=TracedCaches(family))
        loop.submit(first, 0.0)
        for _ in range(3):
            loop.tick()
        assert loop.stats.feature_bytes > 0
        loop.cancel("a")
        assert loop.stats.feature_bytes == 0
        loop.submit(second, 0.0)
        np.testing.assert_array_equal(finish(loop)["b"].image, single.result.image)

    @pytest.mark.parametrize("method", ["interval", "taylor-output"])
    def test_resumed_at_every_step_also_behind_a_full_run(self, family, method):
        steps = 6
        source = spec(**on(family, steps=steps, capture=tuple(k / steps for k in range(1, steps))))
        states = clean(family, source).captured
        assert len(states) == steps - 1
        caches = TracedCaches(family)
        loop = StepLoop(family, caches=caches)
        loop.submit(asking(method, 0.5, "full", **on(family, steps=steps)), 0.0)
        finish(loop)
        whole = caches.pattern("full")
        for k, state in enumerate(states, 1):
            item = asking(
                method, 0.5, f"from {k}", **on(family, steps=steps, resume=(point(state, prediction=None),))
            )
            single = by_itself(family, item)
            loop.submit(item, 0.0)
            result = finish(loop)[item.job_id]
            assert (result.skipped, result.resumed) == (k, 0)
            assert caches.traces[item.job_id] == single.traces
            np.testing.assert_array_equal(result.image, single.result.image)
            pattern = caches.pattern(item.job_id)
            assert (pattern[0], len(pattern)) == ("1", steps - k)
            if method == "interval":
                # In absolute steps, but for the entry.
                assert pattern[1:] == whole[k + 1 :]

    def test_states_behind_a_reuse_are_marked_and_so_are_their_descendants(self, family):
        capture = (0.125, 0.5, 0.75)
        cached = asking("interval", 0.5, **on(family, capture=capture))
        marks = [state.approximated for state in by_itself(family, cached).result.captured]
        assert marks[1:] == [True, True]
        exact = clean(family, plain(cached)).captured
        assert [state.approximated for state in exact] == [False] * 3
        early, _, late = by_itself(
            family, replace(cached, features=FeatureChoice("taylorseer", 0.25))
        ).result.captured
        assert (early.approximated, late.approximated) == (False, True)

        def captured(resume, features=None):
            item = spec(**on(family, capture=(0.125, 0.5, 0.75, 0.875), resume=resume, features=features))
            return [state.approximated for state in clean(family, item).captured]

        assert captured((point(exact[1]),)) == [False, False]
        assert captured((point(exact[1], approximated=True),)) == [True, True]
        assert captured((point(exact[1], prediction=None),), FeatureChoice("interval", 1.0)) == [True, True]
        deeper = (point(late, approximated=True),)
        # The judged state itself is kept, too.
        assert captured((point(exact[0], deeper=deeper),)) == [False, True]
        assert captured((point(exact[0], approximated=True, deeper=(point(exact[2], approximated=True),)),)) == [
            True,
            True,
        ]


def multistage(family):
    return [name for name in ("heun", "kdpm2", "pndm", "flow_match_heun") if name in family.info.solvers]


class TestSolvers:
    def test_stages_have_histories_of_their_own(self, family):
        site = UNetSkip(0) if is_unet(family) else BlockStack()
        for solver in multistage(family):
            run = with_recipe(family, Recipe((layer(site, Interval(2)),)), solver=solver)
            decisions = {(noted.step, noted.stage): noted.reused for noted in run.traces[-1]}
            wanted = {(step, 0): step % 2 == 1 for step in range(8)}
            stages = [0] if solver == "pndm" else range(7)
            assert decisions == wanted | {(step, 1): step % 2 == 1 for step in stages}
            assert np.isfinite(run.result.image).all()
            deep = with_recipe(family, Recipe((layer(site, Interval(2), Taylor(2)),)), solver=solver)
            first = {noted.stage: noted.step for noted in reversed(deep.traces[-1]) if noted.reused}
            # Three computes of the same stage are needed, and there are two evaluations a step.
            assert first == dict.fromkeys(range(1 if solver == "pndm" else 2), 3)

    def test_what_is_remembered_stays_within_what_was_reckoned(self, family):
        for solver in (family.info.solvers[0], *multistage(family)):
            for policy in ("interval", "taylor-output", "cfg-cache", "seacache", "fastercache", "pab"):
                if policy in family.info.feature_policies:
                    item = asking(policy, 0.75, **on(family, solver=solver, steps=5))
                    report = by_itself(family, item).result.features
                    assert report.state_bytes <= TracedCaches(family).bytes_of(item), (solver, policy)

    def test_all_solvers_in_one_batch(self, family):
        policies = [name for name in methods_of(family) if not METHODS[name].calibrated]
        plan = [
            Arrival(
                asking(policies[number % len(policies)], 0.75, solver, solver=solver, steps=6, seed=number),
                number % 3,
                None,
            )
            for number, solver in enumerate(family.info.solvers)
        ]
        played, _ = play_and_compare(family, plan, rounded=rounded)
        for result in played.results.values():
            assert np.isfinite(result.image).all()
            report = result.features
            assert report.reason in (None, "unsupported")
            if report.reason is None:
                assert report.computed + report.reused == result.evaluations


class TestForwards:
    def test_rows_that_fill_up_a_forward_change_nothing(self, family, monkeypatch):
        recipes = different_cuts(family)
        plan = [Arrival(asking(name, 1.0, name, **on(family, steps=4)), 0, None) for name in recipes]
        single = {one.item.job_id: by_itself(family, one.item, recipes=recipes) for one in plan}
        monkeypatch.setattr(family.network, "place", replace(family.network.place, compiled=True))
        caches = TracedCaches(family, recipes=recipes)
        ends = play(StepLoop(family, caches=caches), plan).results
        for name, alone in single.items():
            assert caches.traces[name] == alone.traces
            assert ends[name].features.compute_share == pytest.approx(alone.result.features.compute_share)
            assert_close(ends[name].image, alone.result.image, rounded=False)

    @pytest.mark.parametrize("name", FAMILIES)
    def test_half_precision(self, tmp_path, name):
        half = Bare(load_pipeline(str(BUILDERS[name](tmp_path)), "cpu", "bfloat16"))
        shared = ("taylorseer", "ab-cache", "cfg-cache", "cachequant")
        chosen = ("seacache", "teacache", "fastercache") if name in TRANSFORMERS else ("deepcache-adaptive",)
        items = [asking(policy, 1.0, policy, **on(half, steps=6)) for policy in (*shared, *chosen)]
        (tmp_path / "shelf").mkdir()
        caches = TracedCaches(half, shelf=shelf_of(half, tmp_path / "shelf", items))
        ends = play(StepLoop(half, caches=caches), [Arrival(item, 0, None) for item in items]).results
        for item in items:
            report = ends[item.job_id].features
            assert np.isfinite(ends[item.job_id].image).all()
            assert report.reason == ("unsupported" if name == "flux" and item.job_id == "cfg-cache" else None)
            assert report.state_bytes <= caches.bytes_of(item), item.job_id
            assert report.computed < 6 or item.job_id in ("seacache", "deepcache-adaptive") or report.reason
