"""What is kept of a run, by setting and by the model's profile."""

from dataclasses import replace

import numpy as np
import pytest
from service_samples import result

from cache_store.renoise import noised
from policies.matching import TableError, ThresholdTable
from policies.matching.table import ThresholdRow
from service.engine.base import CapturedState, CleanLatent
from service.forms import kept

NOISE = np.random.default_rng(0)


def latent() -> np.ndarray:
    return NOISE.normal(size=(4, 16, 16)).astype(np.float16)


def state(skip: float, depth: int = 0) -> CapturedState:
    return CapturedState(latent(), 8 * skip - 4, 900 - 900 * skip, skip, latent()[:, ::2, ::2].copy(), depth)


STATES = tuple(state(skip) for skip in (0.125, 0.25, 0.5))
RUN = result(captured=STATES, final=CleanLatent(latent(), 0))


@pytest.mark.parametrize(
    ("form", "adequate", "states", "clean", "noise"),
    [
        ("trajectory", "final", 3, False, False),
        ("auto", "trajectory", 3, False, False),
        ("auto", "final-noise", 3, True, True),
        ("auto", "final", 3, True, False),
        ("final", "trajectory", 0, True, False),
        ("final-noise", "trajectory", 0, True, True),
    ],
)
def test_forms(form, adequate: str, states: int, clean: bool, noise: bool) -> None:
    kept_states, final = kept(RUN, form, 3, adequate=adequate)
    assert len(kept_states) == states
    assert (final is not None) == clean
    if final is not None:
        assert (final.noise is not None) == noise
        assert [at.skip for at in final.levels] == [0.125, 0.25, 0.5]
        assert all(at.prediction is not None for at in final.levels)


@pytest.mark.parametrize(("judged_at", "which"), [(None, 0), (0.1, 0), (0.2, 1)])
def test_kept_noise_leads_back_to_the_state_that_is_judged_at(judged_at: float | None, which: int) -> None:
    _, final = kept(RUN, "final-noise", 3, judged_at=judged_at)
    made = noised(final.latent, STATES[which].log_snr, final.noise.astype(np.float32))
    np.testing.assert_allclose(made, STATES[which].latent, atol=1e-2)


@pytest.mark.parametrize("form", ["final", "final-noise"])
def test_too_deep_runs_are_kept_in_no_form(form) -> None:
    deep = result(captured=(state(0.5, depth=4),), final=CleanLatent(latent(), 4))
    assert kept(deep, form, 3) == ([], None)


@pytest.mark.parametrize("form", ["final", "final-noise"])
def test_a_run_without_a_clean_latent_keeps_its_states(form) -> None:
    states, final = kept(replace(RUN, final=None), form, 3)
    assert (len(states), final) == (3, None)


def test_lineage_goes_with_the_clean_latent() -> None:
    run = result(captured=(state(0.5, depth=2),), final=CleanLatent(latent(), 2, approximated=True))
    _, final = kept(run, "final", 3)
    assert (final.depth, final.approximated) == (2, True)


def table(**changes: object) -> ThresholdTable:
    key = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}
    return ThresholdTable((ThresholdRow(0.25, 0.9, 0.2),), key, **changes)


def test_a_table_says_which_form_is_adequate() -> None:
    assert ThresholdTable.from_json(table(adequate_form="final-noise").to_json()).adequate_form == "final-noise"
    old = {name: value for name, value in table().to_json().items() if name != "adequate_form"}
    assert ThresholdTable.from_json(old).adequate_form == "trajectory"
    with pytest.raises(TableError, match="adequate_form"):
        table(adequate_form="zip")
