import numpy as np
import pytest

from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.results import replace_block


def test_mean_interval_covers_the_true_mean_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        figure = mean_interval(rng.normal(0.9, 0.2, size=80), draws=400)
        covered += figure["low"] <= 0.9 <= figure["high"]
    assert 0.88 <= covered / 200 <= 0.99


def test_ratio_interval_draws_pairs_together() -> None:
    below = np.random.default_rng(2).uniform(0.1, 1.0, size=50)
    figure = ratio_interval(0.9 * below, below, draws=300)
    assert figure["low"] == pytest.approx(0.9)
    assert figure["high"] == pytest.approx(0.9)
    assert figure["n"] == 50


def test_an_empty_sample_has_no_value() -> None:
    assert np.isnan(mean_interval([])["value"])


def test_replace_block_rewrites_only_between_the_markers() -> None:
    text = "before\n<!-- figures:x -->\nold\n<!-- /figures:x -->\nafter"
    assert replace_block(text, "x", ["new"]) == "before\n<!-- figures:x -->\nnew\n<!-- /figures:x -->\nafter"
    with pytest.raises(ValueError, match="not enough values"):
        replace_block("no markers", "x", [])
