"""The figures of `diversity` say what its table says they do, without a model."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import diversity
from benchmarks.codec import Case
from benchmarks.codec_sheet import draw_sheet
from benchmarks.diversity import SEEDS, Arm, differing, headline, sheet_rows, spread
from benchmarks.diversity_table import diversity_table
from service.engine.base import JobResult, JobSpec
from training.pairs import sample_pairs

RNG = np.random.default_rng(0)
PAIRS = 6


def pictures(apart: float) -> list[np.ndarray]:
    """Pictures of one prompt, of the given mean difference in grey levels of 255."""
    return [np.full((16, 16, 3), round(100 + apart * seed), np.uint8) for seed in range(SEEDS)]


def arm(score: float, apart: float, *, evaluations: float = 1.0, hits: int = 0) -> Arm:
    groups = [pictures(apart) for _ in range(PAIRS)]
    unasked = np.array([np.nan, *np.full(PAIRS - 1, apart / 100)])
    return Arm(
        np.full(PAIRS, score),
        np.array([spread(group) for group in groups]),
        unasked,
        np.full(PAIRS, evaluations),
        hits,
        groups,
    )


def report() -> dict:
    image = np.zeros((8, 8, 3), np.uint8)
    source = JobResult("a", image, None, 8, 0, 0, (), (), 0.0, 1.0, 0.1, 0.1)
    spec = JobSpec("a", "p", "", 1, 8, 4.0, "ddim", 32, 32)
    cases = [Case(number, pair, source, spec) for number, pair in enumerate(sample_pairs(1, PAIRS))]
    full = arm(0.9, 20)
    arms = {"0": arm(0.9, 0, evaluations=0.5, hits=24), "1": arm(0.81, 10, evaluations=0.625, hits=24)}
    found = diversity._report(cases, full, {0.5: arms | {"scratch": arm(0.72, 18, evaluations=0.625)}})
    return found | {"headline": headline(found), "looked_at": 24, "steps": 8}


def test_distance_is_the_mean_over_pairs_of_seeds() -> None:
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    assert spread([black, black]) == 0.0
    assert spread([black, white]) == 1.0
    assert spread([black, black, white]) == pytest.approx(2 / 3)


def test_only_what_the_prompt_leaves_open_counts() -> None:
    seen = [{"a": "red", "b": "ball"}, {"a": "red", "b": "box"}, {"a": "blue", "b": "star"}]
    assert differing(seen, ["a", "b"]) == pytest.approx((1 + 2 + 2) / 6)
    assert differing(seen, ["a"]) == pytest.approx(2 / 3)
    assert np.isnan(differing(seen, []))


def test_every_share_is_held_against_full_runs() -> None:
    found = report()
    arms = found["levels"][0]["arms"]
    assert arms["0"]["pixels_over_full"]["value"] == 0.0
    assert arms["1"]["pixels_over_full"]["value"] == pytest.approx(0.5)
    assert arms["1"]["score_over_full"]["value"] == pytest.approx(0.9)
    assert arms["1"]["unasked"]["value"] == pytest.approx(0.1)  # the prompt without open attributes is left out
    head = found["headline"]
    assert (head["skip"], head["distance_floor"], head["evaluations_exchanged"]) == (0.5, 0.0, 0.625)
    assert head["distance_all"] == pytest.approx(head["distance_full_runs"] / 2)


def test_the_table_has_the_ceiling_and_equal_compute(tmp_path) -> None:
    found = report()
    lines = diversity_table(found)
    assert lines[4].startswith("| – | full runs |")
    assert [line.split("|")[2].strip() for line in lines[5:]] == ["0", "1", "from scratch"]
    assert all(line.count("|") == 9 for line in lines[2:])
    rows = sheet_rows(["a text", "another"], arm(1.0, 3), {"1": arm(1.0, 2), "scratch": arm(1.0, 2)})
    assert [(row.name, len(row.pictures)) for row in rows] == [("1 exchanged", 2 * SEEDS), ("in full", 2 * SEEDS)]
    draw_sheet(tmp_path / "sheet.png", [replace(row, pictures=row.pictures[:2]) for row in rows])
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
