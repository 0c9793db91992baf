"""`headstart calibrate matching`: what is proven is in the table, and nothing else."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.tiny_model import build_tiny_model
from policies.matching import ThresholdTable
from service.calibrate.driver import CalibrationError
from service.calibrate.matching.fit import (
    Bound,
    acceptance,
    excess,
    fit_level,
    fit_table,
    hits_needed,
    paying_similarity,
    saved_steps,
    upper_limit,
)
from service.calibrate.matching.pairs import MatchPair, neighbouring_pairs, proposable, read_pairs, write_pairs
from service.calibrate.matching.trials import Notebook, Trial
from service.cli import app
from service.judges import Judge

KEY = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}
BOUND = Bound(rate=0.02, confidence=0.9, visible=0.05)
PROMPTS = (
    "a red cube",
    "a red cube on a table",
    "two blue balls",
    "two blue balls in snow",
    "a red cube, large",
    "a dog",
)


class RednessJudge(Judge):
    """How red the picture is: deterministic, and different for every picture."""

    name = "redness"
    loss = 0.05

    def score(self, images, prompts):
        return np.array([image[..., 0].mean() / 255 for image in images])


def redness() -> Judge:
    return RednessJudge()


def trial(**changes: object) -> Trial:
    fields = {
        "pair": 0,
        "kind": "wording",
        "repeat": False,
        "similarity": 0.9,
        "skip": 0.3,
        "divergence": 0.1,
        "early": 0.1,
        "resumed": 1.0,
        "full": 1.0,
        "other": 1.0,
        "neighbour": 1.0,
    }
    return Trial(**{**fields, **changes})  # type: ignore[arg-type]


def trials(count: int, *, bad_above: float, **changes: object) -> list[Trial]:
    """Evenly spread divergences; every picture above `bad_above` has lost a half."""
    spread = np.linspace(0.0, 1.0, count)
    return [
        trial(**{"pair": i, "early": float(d), "resumed": 0.5 if d > bad_above else 1.0, **changes})
        for i, d in enumerate(spread)
    ]


def test_the_bound_lies_where_hits_turn_bad() -> None:
    fit = fit_level(trials(1000, bad_above=0.6), BOUND)
    assert fit is not None
    assert 0.4 <= fit.max_divergence <= 0.61
    assert fit.rate <= fit.upper <= BOUND.rate


def test_a_level_that_cannot_be_shown_to_hold_is_left_out() -> None:
    assert fit_level(trials(1000, bad_above=-1.0), BOUND) is None
    assert fit_level(trials(hits_needed(BOUND) - 1, bad_above=2.0), BOUND) is None
    assert fit_level(trials(hits_needed(BOUND), bad_above=2.0), BOUND) is not None


@pytest.mark.parametrize(
    ("hit", "one", "two", "expected"),
    [
        (1.0, 1.0, 1.0, 0.0),
        (0.8, 1.0, 1.0, 1.0),
        (1.0, 0.8, 0.8, 0.0),
        (0.8, 1.0, 0.8, 0.0),  # as bad as the worse of two full runs
        (1.0, 1.0, 0.8, -0.5),  # as good as the better one
        (0.6, 1.0, 0.8, 0.5),
        (0.95, 1.0, 1.0, 0.0),  # too little to be seen
    ],
)
def test_a_hit_is_compared_with_what_a_second_full_run_would_be(hit, one, two, expected) -> None:
    assert excess([trial(resumed=hit, full=one, other=two)], 0.05).tolist() == [expected]


def by_chance(rng: np.random.Generator, count: int, *, worse: float) -> list[Trial]:
    """Full runs that miss something every tenth time, and hits that do so more often by `worse`."""
    full, other = (rng.choice([0.8, 1.0], size=count, p=[0.1, 0.9]) for _ in range(2))
    hits = rng.choice([0.8, 1.0], size=count, p=[0.1 + worse, 0.9 - worse])
    rows = zip(trials(count, bad_above=2.0), hits, full, other, strict=True)
    return [replace(t, resumed=float(h), full=float(f), other=float(o)) for t, h, f, o in rows]


def test_hits_as_good_as_full_runs_have_a_rate_of_zero() -> None:
    rng = np.random.default_rng(4)
    assert excess(by_chance(rng, 20_000, worse=0.0), 0.05).mean() == pytest.approx(0.0, abs=0.006)
    assert excess(by_chance(rng, 20_000, worse=0.1), 0.05).mean() == pytest.approx(0.09, abs=0.006)


def test_the_limit_covers_the_true_rate_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    samples = [excess(by_chance(rng, 300, worse=0.02), 0.05) for _ in range(1500)]
    truth = float(np.mean(samples))
    assert np.mean([upper_limit(found, 0.9) >= truth for found in samples]) > 0.88


def test_a_table_rarely_breaks_its_bound() -> None:
    """Fixed-sequence testing: where no threshold keeps the bound, one is let through in a tenth of the cases."""
    rng = np.random.default_rng(6)
    bound = Bound(0.04, 0.9, 0.05)
    broken = sum(fit_level(by_chance(rng, 600, worse=0.06), bound) is not None for _ in range(200))
    kept = sum(fit_level(by_chance(rng, 600, worse=-0.05), bound) is not None for _ in range(200))
    assert broken / 200 < 0.15
    assert kept / 200 > 0.8


def test_the_table_carries_key_proof_and_only_the_levels_that_hold() -> None:
    good = trials(1000, bad_above=0.5)
    bad = [replace(t, skip=0.5, resumed=0.1) for t in good]
    repeats = [trial(pair=2000 + i, kind="retry", repeat=True, early=0.0, skip=0.5) for i in range(400)]
    table, fits = fit_table([*good, *bad, *repeats], BOUND, KEY, {"judge": "j"}, 10)
    assert [row.skip for row in table.rows] == [0.3]
    assert (table.judged_at, table.step_share) == (0.3, 0.1)
    assert table.metadata["levels"][0]["hits"] == fits[0].hits
    assert table.matches(KEY)
    assert not table.matches(KEY | {"weights_digest": "other"})


def test_a_deeper_level_is_never_held_to_less() -> None:
    strict, lax = trials(1000, bad_above=0.4, skip=0.1), trials(1000, bad_above=0.8, skip=0.3)
    table, _ = fit_table([*strict, *lax], BOUND, KEY, {}, 10)
    assert [row.skip for row in table.rows] == [0.1, 0.3]
    assert table.rows[0].max_divergence == table.rows[1].max_divergence


def test_a_saved_table_is_read_back_as_it_was(tmp_path: Path) -> None:
    table, _ = fit_table(trials(1000, bad_above=0.5), BOUND, KEY, {}, 10)
    table.save(tmp_path / "t.json")
    assert ThresholdTable.load(tmp_path / "t.json") == table
    assert table.rows[0].acceptance


def test_acceptance_rises_with_similarity() -> None:
    mixed = [trial(pair=i, similarity=s, early=1.0 - s) for i, s in enumerate(np.linspace(0.5, 1.0, 200))]
    curve = acceptance(mixed, 0.25)
    assert curve[0] == (0.5, 0.0)
    assert curve[-1] == (1.0, 1.0)
    assert list(curve) == sorted(curve)
    assert acceptance([], 0.25) == ()


def test_pairs_that_were_given_up_count_as_refused() -> None:
    given_up = [
        trial(pair=i, similarity=0.6, skip=0.0, early=float("inf"), resumed=float("nan")) for i in range(2000, 3000)
    ]
    good = [replace(t, similarity=0.95) for t in trials(1000, bad_above=2.0)]
    table, _ = fit_table([*good, *given_up], BOUND, KEY, {}, 10)
    assert table.rows[0].chance(0.6) == 0.0
    assert table.rows[0].chance(0.95) == 1.0
    assert 0.6 < table.rows[0].min_similarity < 0.95


def test_the_floor_lies_where_attempts_stop_to_pay() -> None:
    _, fits = fit_table(trials(1000, bad_above=0.5), BOUND, KEY, {}, 10)
    assert saved_steps(0.0, fits, 0.3, 10) == 3.0
    assert saved_steps(0.9, fits, 0.3, 10) == -1.0
    useful = [trial(similarity=0.9, early=0.0)] * 10
    useless = [trial(similarity=0.6, early=0.9)] * 50
    assert paying_similarity([*useful, *useless], fits, 0.3, 10) == pytest.approx(0.9, abs=1e-3)
    assert paying_similarity(useless, fits, 0.3, 10) == pytest.approx(1.0, abs=1e-3)


def test_pairs_of_a_log_are_neighbours_evenly_spread() -> None:
    angles = np.linspace(0, 1.5, 40)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    prompts = ["a " + "very " * i + "good prompt" for i in range(40)]
    pairs = neighbouring_pairs(prompts, vectors, 20, seed=1)
    assert len(set(pairs)) == 20
    assert pairs == neighbouring_pairs(prompts, vectors, 20, seed=1)
    for pair in pairs:
        assert prompts.index(pair.source) < prompts.index(pair.target)
    assert neighbouring_pairs(prompts[:1], vectors[:1], 5, seed=1) == ()
    assert neighbouring_pairs(["same"] * 3, vectors[:3], 5, seed=1) == ()


def test_pairs_the_veto_parts_are_left_out() -> None:
    alike, parted = MatchPair("a red ball", "one red ball on grass"), MatchPair("two red balls", "three red balls")
    assert proposable([parted, alike, parted, MatchPair("a box", "a crate")], 1) == (alike,)
    vectors = np.ones((2, 1), np.float32)
    assert neighbouring_pairs([parted.source, parted.target], vectors, 5, seed=1) == ()


def test_pairs_are_read_as_they_were_written(tmp_path: Path) -> None:
    pairs = (MatchPair("a „b“", "c", "kind"), MatchPair("d", "d"))
    write_pairs(pairs, tmp_path / "p.jsonl")
    assert read_pairs(tmp_path / "p.jsonl", "nowhere") == pairs
    assert pairs[1].repeat


@pytest.mark.parametrize(
    "line", ["{}", "[]", '{"source": 1, "target": "b"}', "rubbish", '{"source": " ", "target": "b"}']
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text('{"source": "a", "target": "b"}\n' + line + "\n")
    with pytest.raises(CalibrationError, match="line 2"):
        read_pairs(file, "nowhere")


def test_a_notebook_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    pairs = [MatchPair(f"s{i}", f"t{i}") for i in range(4)]
    path, about = tmp_path / "n.jsonl", {"steps": 8}
    notebook = Notebook(path, about, pairs, Trial)
    notebook.add([0, 1], [trial(pair=0), trial(pair=1)])
    notebook.add([2], [trial(pair=2)])
    path.write_text(path.read_text()[:-20])
    again = Notebook(path, about, pairs, Trial)
    assert again.done == {0, 1}
    assert again.trials == [trial(pair=0), trial(pair=1)]
    again.add([2, 3], [trial(pair=3)])
    assert Notebook(path, about, pairs, Trial).done == {0, 1, 2, 3}
    for other in ((about | {"steps": 9}, pairs), (about, [MatchPair("other", "one"), *pairs[1:]])):
        with pytest.raises(CalibrationError, match="move it away"):
            Notebook(path, *other, Trial)


def call(*words: object):
    return CliRunner().invoke(app, ["calibrate", "matching", *map(str, words)])


def test_a_tiny_model_is_calibrated_and_gone_on_with(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    prompts = tmp_path / "log.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    out = tmp_path / "out"
    words = ("--model", model, "--prompts", prompts, "--judge", "test_calibrate_matching:redness", "--out", out)
    words = (*words, "--steps", 6, "--levels", "0.2,0.5", "--device", "cpu", "--batch", 4)
    answer = call(*words, "--pairs", 3)
    assert answer.exit_code == 0, answer.output
    assert "only the same text is served" in answer.output
    first = (out / "matching_trials.jsonl").read_text()
    assert len(json.loads(first.splitlines()[1])["pairs"]) == 3
    assert (out / "matching.png").stat().st_size > 1000
    assert (out / "matching_sheet.png").stat().st_size > 1000
    assert ThresholdTable.load(out / "matching.json").rows == ()

    answer = call(*words, "--pairs", 5, "--bound", 0.9, "--confidence", 0.5)
    assert answer.exit_code == 0, answer.output
    assert (out / "matching_trials.jsonl").read_text().startswith(first)
    for row in [json.loads(line) for line in (out / "matching_trials.jsonl").read_text().splitlines()[1:]]:
        for one in row["trials"]:
            assert one["early"] >= 0.0
            assert 0.0 <= one["resumed"] <= 1.0

    answer = call(*words, "--steps", 5)
    assert answer.exit_code == 1
    assert "move it away" in answer.output


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--judge", "rubbish"), "judge"),
        (("--judge", "os:getcwd"), "not a Judge"),
        (("--judge", "no_such_module:f"), "no_such_module"),
        (("--judge", "clip:/nowhere"), "clip:/nowhere"),
        (("--levels", "1.5"), "levels"),
        (("--levels", "x"), "levels"),
        (("--bound", 0), "bound"),
        (("--pairs", 0), "pairs"),
        (("--prompts", "/nowhere"), "cannot read"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, words, named: str) -> None:
    prompts = tmp_path / "log.txt"
    prompts.write_text("a\nb\n")
    given = ("--model", tmp_path, "--prompts", prompts, "--judge", "test_calibrate_matching:redness", *words)
    answer = call(*given)
    assert answer.exit_code == 2, answer.output
    assert named in answer.output
    assert "Traceback" not in answer.output
    assert answer.output.count("\n") == 1
