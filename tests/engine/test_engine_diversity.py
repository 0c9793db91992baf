"""Exchanging a state's noise: other seeds, other pictures, from the same state and for the same steps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_helpers import alone, point, spec

from service.engine.diversity import exchanged, fresh_noise
from service.engine.levels import Level

CAPTURE = (0.25, 0.5)
LEVEL = Level.of_ratio(1.5)


@pytest.fixture(scope="module")
def source(pipeline):
    return alone(pipeline, spec("source", isolated=True, capture=CAPTURE))


def resumed(source, index=1, **changes):
    """The source's prompt again, from its state number `index`, ungated unless told otherwise."""
    entry = point(source.captured[index], prediction=None)
    fields = {"resume": (entry,), "isolated": True, "capture": CAPTURE}
    return spec("again", **{**fields, **changes})


def test_a_share_of_the_noise_is_exchanged_and_no_variance_lost() -> None:
    clean, old, fresh = torch.randn(3, 4, 64, 64)
    latent = LEVEL.alpha * clean + LEVEL.sigma * old
    torch.testing.assert_close(exchanged(latent, clean, LEVEL, 0.0, fresh), latent)
    torch.testing.assert_close(
        exchanged(latent, clean, LEVEL, 1.0, fresh), LEVEL.alpha * clean + LEVEL.sigma * fresh, atol=1e-5, rtol=1e-4
    )
    half = exchanged(latent, clean, LEVEL, 0.5, fresh)
    noise = (half - LEVEL.alpha * clean) / LEVEL.sigma
    assert float(noise.std()) == pytest.approx(1.0, abs=0.03)
    for one in (old, fresh):
        assert float((noise * one).mean()) == pytest.approx(math.sqrt(0.5), abs=0.05)


def test_fresh_noise_is_a_function_of_seed_and_state(pipeline) -> None:
    latent = pipeline.initial_noise(7, 512, 512)
    one = fresh_noise(7, latent)
    assert torch.equal(one, fresh_noise(7, latent.clone()))
    others = (fresh_noise(8, latent), fresh_noise(7, latent + 1), latent, fresh_noise(2**63 - 1, latent))
    for other in others:
        assert abs(float((one * other).mean())) < 0.05
    assert float(one.std()) == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "euler_ancestral", "heun", "deis", "pndm"])
def test_other_seeds_give_other_pictures_for_the_same_steps(pipeline, source, solver) -> None:
    plain = alone(pipeline, resumed(source, solver=solver))
    drawn = [alone(pipeline, resumed(source, solver=solver, seed=seed, diversity=0.6)) for seed in (1, 2, 1)]
    assert np.array_equal(drawn[0].image, drawn[2].image)
    assert not np.array_equal(drawn[0].image, drawn[1].image)
    assert not np.array_equal(drawn[0].image, plain.image)
    for one in drawn:
        assert (one.diversity, one.skipped, one.wasted) == (0.6, plain.skipped, plain.wasted + 1)
        assert one.evaluations == plain.evaluations + 1
        assert (one.resumed, one.entry) == (0, plain.entry)
        assert [state.depth for state in one.captured] == [state.depth for state in plain.captured]


def test_without_it_the_seed_plays_no_part_and_with_more_of_it_pictures_part_further(pipeline, source) -> None:
    plain = alone(pipeline, resumed(source, seed=1))
    assert np.array_equal(plain.image, alone(pipeline, resumed(source, seed=2, diversity=0.0)).image)
    assert (plain.diversity, plain.wasted) == (0.0, 0)

    def distance(share: float) -> float:
        final = alone(pipeline, resumed(source, seed=2, diversity=share)).final
        return float(np.abs(final.latent.astype(np.float32) - plain.final.latent).mean())

    found = [distance(share) for share in (0.05, 0.3, 1.0)]
    assert found == sorted(found)
    assert found[0] < found[2] / 4


def test_the_gate_judges_the_state_as_it_was_stored(pipeline, source) -> None:
    gated = (point(source.captured[1], 1e9),)
    plain = alone(pipeline, resumed(source, prompt="a blue ball", resume=gated))
    mixed = alone(pipeline, resumed(source, prompt="a blue ball", resume=gated, diversity=1.0))
    assert mixed.divergences == plain.divergences
    assert mixed.divergences[0] > 0
    assert (mixed.diversity, mixed.wasted) == (1.0, 1)


def test_a_refused_state_leaves_the_full_run_untouched(pipeline, source) -> None:
    gated = (point(source.captured[1], 0.0),)
    refused = alone(pipeline, resumed(source, prompt="a blue ball", resume=gated, diversity=1.0))
    full = alone(pipeline, spec("full", prompt="a blue ball", isolated=True, capture=CAPTURE))
    assert (refused.resumed, refused.diversity, refused.wasted) == (None, 0.0, 1)
    assert np.array_equal(refused.image, full.image)
    assert [state.latent.tobytes() for state in refused.captured] == [s.latent.tobytes() for s in full.captured]


def test_noise_is_exchanged_at_the_deeper_state_that_the_gate_leads_to(pipeline, source) -> None:
    deep = point(source.captured[1], 1e9)
    judge = point(source.captured[0], 0.0, deeper=(deep,))
    wish = {"prompt": "a blue ball", "diversity": 0.7, "seed": 3}
    plain = alone(pipeline, resumed(source, resume=(judge,), **{**wish, "diversity": 0.0}))
    mixed = alone(pipeline, resumed(source, resume=(judge,), **wish))
    assert (plain.deeper, plain.wasted) == (0, 1)
    assert (mixed.deeper, mixed.wasted, mixed.skipped, mixed.diversity) == (0, 2, plain.skipped, 0.7)
    # It does not pass through the state it was judged at.
    assert all(state.skip > judge.skip for state in mixed.captured)
    # The same again, entered there at once, as a replay does.
    again = alone(pipeline, resumed(source, resume=(replace(deep, prediction=None),), **wish))
    assert np.array_equal(mixed.image, again.image)


def test_a_state_that_saves_but_one_step_is_not_worth_it(pipeline, source) -> None:
    first = alone(pipeline, spec("early", capture=(0.125,)))
    early = (point(first.captured[0], prediction=None),)
    assert alone(pipeline, resumed(first, 0, resume=early)).skipped == 1
    full = alone(pipeline, resumed(first, 0, resume=early, diversity=0.5))
    assert (full.resumed, full.skipped, full.wasted, full.diversity) == (None, 0, 0, 0.0)


def test_exchanged_noise_that_is_not_finite_ends_in_a_full_run(pipeline, source, monkeypatch) -> None:
    monkeypatch.setattr("service.engine.job.fresh_noise", lambda seed, latent: latent * math.nan)
    full = alone(pipeline, resumed(source, diversity=0.5))
    assert (full.resumed, full.diversity) == (None, 0.0)
    assert np.isfinite(full.final.latent).all()
