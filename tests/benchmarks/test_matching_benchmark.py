"""The figures of `matching` and `gate` say what their tables say they do."""

import numpy as np
import pytest
import torch

from benchmarks import gate, matching
from benchmarks.gate_table import SHIPPED, gate_table
from benchmarks.matching_table import SUITE, matching_summary, matching_table
from benchmarks.matching_world import Served
from policies.matching import Candidate, StateRef, ThresholdRow, ThresholdTable
from service.engine.gate import divergence, influence, pool_prediction

TABLE = ThresholdTable(
    (ThresholdRow(0.125, 0.8, 0.4), ThresholdRow(0.5, 0.8, 0.2)),
    {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"},
    judged_at=0.125,
    step_share=0.125,
)


def served(
    score: float, full: float, other: float, *, saved: float = 0.5, hit: bool = True, repeat: bool = False
) -> Served:
    return Served(score, full, other, saved, 1 if hit else None, repeat)


def test_an_arm_is_summed_up() -> None:
    rows = [
        served(0.5, 1.0, 1.0),
        served(1.0, 1.0, 1.0),
        served(1.0, 1.0, 0.5),
        served(0.5, 1.0, 1.0, repeat=True),
        served(1.0, 1.0, 1.0, saved=-0.125, hit=False),
    ]
    found = matching.figures(rows)
    assert (found["hits"], found["repeats"], found["requests"]) == (3, 1, 5)
    assert found["bad_hit_rate"] == pytest.approx((1.0 + 0.0 - 0.5) / 3)
    assert (found["worse"], found["better"]) == (1, 1)
    assert found["bad_hit_upper95"] > found["bad_hit_rate"]
    assert found["saved"]["value"] == pytest.approx((4 * 0.5 - 0.125) / 5)
    assert found["saved_without_repeats"]["value"] == pytest.approx((3 * 0.5 - 0.125) / 4)
    assert found["quality"]["value"] == pytest.approx(4.0 / 4.5)


def test_an_arm_without_hits_has_no_bad_ones() -> None:
    found = matching.figures([served(1.0, 1.0, 1.0, saved=0.0, hit=False)])
    assert (found["hits"], found["bad_hit_rate"], found["bad_hit_upper95"]) == (0, 0.0, 0.0)


def test_every_arm_leaves_out_what_it_is_named_after() -> None:
    states = tuple(StateRef(10 * skip, skip, has_prediction=True) for skip in (0.125, 0.5))
    near, far = Candidate(1, 0.97, "two red balls", states), Candidate(2, 0.7, "a dog", states)
    arms = matching.arms(TABLE)
    chosen = {name: policy.choose("a red ball", [near, far]).attempts for name, (policy, _) in arms.items()}
    assert chosen["headstart"] == chosen["top-1 only"] == ()
    assert [attempt.entry_id for attempt in chosen["no veto"]] == [1]
    assert {attempt.entry_id for attempt in chosen["gate alone"]} == {1, 2}
    assert [(a.entry_id, a.state.skip, a.max_divergence) for a in chosen["fixed threshold"]] == [(1, 0.5, np.inf)]
    assert arms["top-1 only"][1] == 1
    (unjudged,) = arms["no gate"][0].choose("two balls, red", [near]).attempts
    assert (unjudged.state.skip, unjudged.max_divergence) == (0.5, np.inf)


def test_the_shipped_measure_is_the_engines() -> None:
    target, source, nothing = (torch.randn(3, 4, 16, 16) for _ in range(3))
    three = tuple(one.double().numpy() for one in (target, source, nothing))
    measured = gate._measures(three, 4.0)[SHIPPED]  # type: ignore[arg-type]
    new, old = nothing + 4 * (target - nothing), nothing + 4 * (source - nothing)
    engine = [
        divergence(pool_prediction(a), pool_prediction(b), influence(a, c))
        for a, b, c in zip(new, old, nothing, strict=True)
    ]
    assert measured == pytest.approx(engine, rel=5e-3)


def test_the_share_served_ends_where_the_rate_is_passed_for_good() -> None:
    found = np.array([0.0] * 90 + [1.0] * 10)
    assert gate._share(found, 0.05) == pytest.approx(0.94)
    assert gate._share(np.ones(50), 0.05) == 0.0
    assert gate._share(np.zeros(50), 0.0) == 1.0


def test_the_tables_are_drawn() -> None:
    row = {"measure": "m", "auc": {"0.25": 0.7}, "served": {"0.25": [0.5, 0.8]}}
    figure = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 4}
    seen = {"bad": 3} | dict.fromkeys(("gate", "picture", "together", "together_over_gate"), figure)
    spent = {"one picture": 9.0, "all candidates": 40.0, "evaluation": 50.0}
    picture = {"levels": {"0.25": seen}, "milliseconds": spent}
    report = {"pairs": 9, "kept": 5, "level": 0.125, "rates": [0.02, 0.05], "rows": [row], "picture": picture}
    lines = gate_table(report)
    assert "| m | 0.70 | 0.50 / 0.80 |" in lines
    assert lines[-1].startswith("| 25% | 3 | 0.250 [0.200, 0.300] |")
    arm = matching.figures([served(0.5, 1.0, 1.0), served(1.0, 1.0, 1.0)])
    kinds = {"colour": {"pairs": 2, "hits": 1, "bad": 1.0}}
    bad = {"hits": 1, "bad_of_pairs": {"value": 0.5, "low": 0.1, "high": 0.9, "n": 2}, "by_kind": kinds}
    suite = dict.fromkeys(SUITE, bad)
    model = {
        "arms": {"headstart": arm},
        "wide": arm,
        "adversarial": suite,
        "adversarial_pairs": 2,
        "table": TABLE.to_json(),
        "steps": 8,
    }
    head = {
        "bad_hit_rate": 0.01,
        "bad_hit_upper95": 0.02,
        "saved_compute": 0.2,
        "adversarial_bad_before": 0.5,
        "adversarial_bad_after": 0.0,
    }
    report = {"sessions": 2, "loss": 0.05, "models": {"scenes-unet": model}, "headline": head}
    lines = matching_table(report)
    assert any(line.startswith("| headstart | 2 (0) | 0.500 [") for line in lines)
    assert "| headstart | 1 | 0.500 [0.100, 0.900] | 1 of 1 |" in lines
    assert "**1.0%**" in matching_summary(report)[0]
