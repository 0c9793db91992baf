"""What holds for every family, solver, N, K, guidance, and for every order of arrivals and cancellations."""

from dataclasses import replace

import numpy as np
import pytest
from engine_helpers import point, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mix_helpers import BUILDERS, SHARES, arrivals, assert_close, clean, own_states, play, some_jobs, tiny_family

from service.engine.batch import join
from service.engine.foreign import METHODS, Space
from service.engine.job import Job, plan_route
from service.engine.loop import StepLoop
from service.engine.solvers import SOLVERS, Memory, step

RESTARTING = {"dpmpp_2m", "unipc", "lms", "deis", "pndm"}
PROPERTY = settings(
    deadline=None,
    derandomize=True,
    max_examples=16,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="session", params=BUILDERS)
def family(request, tmp_path_factory):
    return tiny_family(request.param, tmp_path_factory.mktemp("family"))


@pytest.fixture(scope="session")
def states(family):
    return own_states(family, spec(solver=family.info.solvers[0], prompt="a red cube"))


@PROPERTY
@given(data=st.data(), budget=st.integers(1, 4))
def test_batch_mates_arrivals_and_cancellations_change_nothing(family, states, data, budget):
    plan = data.draw(arrivals(family.info.solvers, states))
    loop = StepLoop(family, max_batch=budget)
    played = play(loop, plan)
    for one in plan:
        if one.cancelled is not None:
            assert not [e for tick, e in played.events if e.job_id == one.item.job_id and tick >= one.cancelled]
        if one.cancelled is None or one.item.job_id in played.results:
            joint = played.results[one.item.job_id]
            assert_same_run(joint, clean(family, one.item), rounded=bool(one.item.capture) or explodes(one.item))
    assert_nothing_left(loop)
    if all(one.cancelled is None for one in plan):
        assert played.rows == sum(result.evaluations for result in played.results.values())


@PROPERTY
@given(data=st.data())
def test_a_run_resumed_from_its_own_state_is_the_same_run(family, data):
    fields = data.draw(some_jobs(family.info.solvers)) | {
        "capture": SHARES,
        "steps": data.draw(st.sampled_from([5, 8])),
    }
    item = spec("full", **fields)
    full = clean(family, item)
    for state in full.captured:
        again = clean(family, replace(item, resume=(point(state, prediction=None),)))
        k = round(state.skip * item.steps)
        assert (again.skipped, again.resumed, again.wasted) == (k, 0, 0)
        if item.solver in SOLVERS:
            assert again.evaluations == item.steps - k
            np.testing.assert_array_equal(again.image, restarted(family, item, k))
        assert (again.entry == "exact") == (item.solver not in RESTARTING)
        if again.entry == "exact":
            np.testing.assert_array_equal(again.image, full.image)


def explodes(item):
    """Whether the solver's samples grow with sigma: 20,000 times on a cosine schedule, and float32's rounding too."""
    return item.solver in METHODS and METHODS[item.solver].space is Space.EXPLODING


def assert_same_run(joint, single, *, rounded):
    assert_close(joint.image, single.image, rounded=rounded)
    assert (joint.resumed, joint.deeper) == (single.resumed, single.deeper)
    assert (joint.skipped, joint.wasted) == (single.skipped, single.wasted)
    np.testing.assert_allclose(joint.divergences, single.divergences, rtol=0, atol=1e-2)
    assert [state.skip for state in joint.captured] == [state.skip for state in single.captured]
    for mine, other in zip(joint.captured, single.captured, strict=True):
        assert_close(mine.latent, other.latent, rounded=True)
        assert_close(mine.prediction, other.prediction, rounded=True)
        assert (mine.timestep, mine.log_snr, mine.depth) == (other.timestep, other.log_snr, other.depth)


def assert_nothing_left(loop):
    assert loop.idle
    assert (loop.stats.active, loop.stats.waiting) == (0, 0)
    assert loop.tick() == []


def restarted(family, item, k):
    """The whole run by hand, with the solver's memory forgotten before step k: what a resumed run is to equal."""
    job = Job.create(item, 0.0, family)
    route = plan_route(family, item)
    for index in range(item.steps):
        if index == k:
            job.memory = Memory()
        job.round_for_capture()
        denoised = family.predict(join([job]))
        update = job.update()
        stepped, corrected = step(job.latent[None], denoised, [job.memory], [update], [job.fresh_noise()])
        job.advance(stepped[0], corrected[0], denoised[0], update)
    assert route == job.route
    return job.latent.permute(1, 2, 0).numpy()
