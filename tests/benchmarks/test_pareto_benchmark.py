"""The Pareto plot's arithmetic: who is on the front, who is best of a kind, whose time cannot be right."""

from typing import Any

import pytest

from benchmarks.pareto import FEATURED, MODELS, REFERENCE, arms, best_of, front
from benchmarks.pareto_table import disturbed


def row(arm: str, speedup: float, score: float, **fields: Any) -> dict[str, Any]:
    return {
        "arm": arm,
        "steps": int(arm.split()[0]),
        "cached": "head start" in arm,
        "features": False,
        "seconds": {"value": 1 / speedup},
        "speedup": {"value": speedup},
        "speedup_over_first": speedup,
        "score": {"value": score},
        "quality": {"value": score / 0.9},
    } | fields


def test_on_the_front_is_who_nobody_beats_in_both() -> None:
    slow, fast = row("50 steps", 1.0, 0.90), row("5 steps", 9.0, 0.80)
    beaten, level = row("12 steps", 3.0, 0.79), row("10 steps", 9.0, 0.78)
    assert front([beaten, slow, level, fast]) == [fast, slow]


def test_the_best_of_a_kind_is_its_fastest_that_is_good_enough() -> None:
    rows = [
        row("50 steps", 1.0, 0.900),
        row("12 steps", 4.0, 0.895),
        row("8 steps", 6.0, 0.800),
        row("12 steps, head start", 5.0, 0.900),
        row("12 steps, cfg-cache 0.5", 7.0, 0.800, features=True),
        row("12 steps, head start, cfg-cache 0.5", 8.0, 0.892, features=True),
    ]
    best = {kind: found and found["arm"] for kind, found in best_of(rows).items()}
    assert best == {
        "scratch": "12 steps",
        "head_start": "12 steps, head start",
        "features": None,
        "joint": "12 steps, head start, cfg-cache 0.5",
    }


def test_an_arm_slower_than_its_like_with_more_steps_was_disturbed() -> None:
    rows = [
        row("10 steps", 5.0, 0.9),
        row("8 steps", 4.0, 0.9),
        row("8 steps, head start", 6.0, 0.9),
        row("12 steps, cfg-cache 0.5", 2.0, 0.9, features=True),
    ]
    assert disturbed(rows) == ["8 steps"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("quick", [True, False])
def test_every_model_has_every_kind_of_arm_and_the_reference_first(model: str, *, quick: bool) -> None:
    found = arms(model, quick=quick)
    assert found[0] == REFERENCE
    assert len(found) == len(set(found))
    assert {(arm.cached, arm.features is not None) for arm in found} == {(a, b) for a in (0, 1) for b in (0, 1)}
    assert {arm.steps for arm in found if arm.features} <= set(FEATURED[model])
