"""`headstart calibrate matching`: what is proven is in the table, and nothing else."""

import gc
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.tiny_model import build_tiny_model
from policies.matching import ThresholdTable
from service.calibrate.driver import CalibrationError
from service.calibrate.jobs import JobRunner, RunSettings, text_jobs
from service.calibrate.matching import command
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
from service.calibrate.matching.pictures import Strips
from service.calibrate.matching.trials import Notebook, Trial
from service.cli import app
from service.engine import EngineConfig
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


def broken() -> Judge:
    raise KeyError("weights")


def needy(weights: Path) -> Judge:
    raise AssertionError(f"never called with {weights}")


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


def test_hits_without_a_difference_prove_no_more_than_they_can() -> None:
    """Of hits of a rate of 5 %, 30 in a row show nothing once in five times: so they prove no less than that."""
    assert upper_limit(np.zeros(30), 0.8) == pytest.approx(1 - 0.2 ** (1 / 30))
    assert upper_limit(np.r_[np.zeros(98), 1.0], 0.8) == pytest.approx(0.03, abs=5e-4)
    assert hits_needed(Bound(0.01, 0.9, 0.05)) == 230
    assert upper_limit(np.ones(3), 0.8) == 1.0


@pytest.mark.parametrize("noise", [0.0, 0.005, 0.02])
def test_a_judge_that_hardly_varies_proves_no_more_either(noise: float) -> None:
    """Where full runs hardly ever differ, a normal limit would let a broken bound through in half of the cases."""
    rng = np.random.default_rng(7)
    bound, count = Bound(0.02, 0.8, 0.05), 400

    def level() -> list[Trial]:
        full, other = (rng.choice([0.8, 1.0], size=count, p=[noise, 1 - noise]) for _ in range(2))
        hits = rng.choice([0.8, 1.0], size=count, p=[noise + 0.022, 1 - noise - 0.022])
        rows = zip(trials(count, bad_above=2.0), hits, full, other, strict=True)
        return [replace(t, resumed=float(h), full=float(f), other=float(o)) for t, h, f, o in rows]

    assert np.mean([fit_level(level(), bound) is not None for _ in range(300)]) < 0.25


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


def test_what_is_told_of_a_level_is_told_of_its_own_bound() -> None:
    """A deeper level that is held to a shallower one's bound is not credited with hits beyond it."""
    strict, lax = trials(1000, bad_above=0.4, skip=0.1), trials(1000, bad_above=0.8, skip=0.3)
    table, fits = fit_table([*strict, *lax], BOUND, KEY, {}, 10)
    for fit, drawn in zip(fits, (strict, lax), strict=True):
        assert fit.hits == sum(trial.early <= fit.max_divergence for trial in drawn)
    assert [level["hits"] for level in table.metadata["levels"]] == [fit.hits for fit in fits]


def test_a_level_unproven_within_a_shallower_bound_is_left_out() -> None:
    """So few hits lie within the shallower level's bound that they prove nothing of the deeper one."""
    strict, lax = trials(1000, bad_above=0.2, skip=0.1), trials(1000, bad_above=0.8, skip=0.3)
    varying = [replace(t, other=0.5 if t.pair % 2 else 1.0, resumed=0.5 if t.pair % 4 > 1 else 1.0) for t in lax]
    assert fit_level(varying, BOUND, ceiling=0.2) is None
    _, fits = fit_table([*strict, *varying], BOUND, KEY, {}, 10)
    assert [fit.skip for fit in fits] == [0.1]


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


def test_a_notebook_of_other_prompts_is_refused_even_where_fewer_are_wanted(tmp_path: Path) -> None:
    pairs = [MatchPair(f"s{i}", f"t{i}") for i in range(4)]
    path, about = tmp_path / "n.jsonl", {"steps": 8}
    Notebook(path, about, pairs, Trial).add([0, 1, 2, 3], [trial(pair=i) for i in range(4)])
    assert Notebook(path, about, pairs[:3], Trial).trials == [trial(pair=i) for i in range(3)]
    with pytest.raises(CalibrationError, match="other prompts"):
        Notebook(path, about, [MatchPair("another", "log"), *pairs[1:3]], Trial)


def test_pairs_written_twice_count_once(tmp_path: Path) -> None:
    """Two calibrations that ran into one notebook do not prove twice as much."""
    pairs = [MatchPair(f"s{i}", f"t{i}") for i in range(2)]
    path, about = tmp_path / "n.jsonl", {"steps": 8}
    one, two = Notebook(path, about, pairs, Trial), Notebook(path, about, pairs, Trial)
    one.add([0], [trial(pair=0)])
    two.add([0, 1], [trial(pair=0), trial(pair=1)])
    assert Notebook(path, about, pairs, Trial).trials == [trial(pair=0), trial(pair=1)]


def test_a_notebook_cut_before_its_first_line_was_whole_is_begun_anew(tmp_path: Path) -> None:
    path, pairs = tmp_path / "n.jsonl", [MatchPair("s", "t")]
    path.write_text('{"about": {"st')
    Notebook(path, {"steps": 8}, pairs, Trial).add([0], [trial()])
    assert Notebook(path, {"steps": 8}, pairs, Trial).done == {0}


@pytest.mark.parametrize("line", ["rubbish", "[]", "{}", '{"pairs": [0], "texts": ["x", "y"], "trials": []}', "\xff"])
def test_a_damaged_notebook_is_named(tmp_path: Path, line: str) -> None:
    path, pairs = tmp_path / "n.jsonl", [MatchPair("s", "t")]
    Notebook(path, {"steps": 8}, pairs, Trial)
    with path.open("a", encoding="latin-1") as file:
        file.write(line + "\n")
    with pytest.raises(CalibrationError, match=r"line 2: .*move the file away"):
        Notebook(path, {"steps": 8}, pairs, Trial)


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


def test_a_quick_look_leaves_the_table_that_is_served_alone(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    prompts, table = tmp_path / "log.txt", model / "matching.json"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    table.write_text("proven")
    words = ("--model", model, "--prompts", prompts, "--judge", "test_calibrate_matching:redness", "--device", "cpu")
    answer = call(*words, "--steps", 6, "--levels", "0.5", "--quick")
    assert answer.exit_code == 0, answer.output
    assert table.read_text() == "proven"
    assert ThresholdTable.load(model / "matching_quick.json").metadata["pairs"] >= 1
    assert (model / "matching_quick.png").is_file()
    assert (model / "matching_sheet_quick.png").is_file()
    assert (model / "matching_trials.jsonl").is_file()


def test_a_notebook_that_cannot_be_written_ends_in_one_line(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    prompts = tmp_path / "log.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    (model / "matching_trials.jsonl").mkdir()
    words = ("--model", model, "--prompts", prompts, "--judge", "test_calibrate_matching:redness", "--device", "cpu")
    answer = call(*words, "--steps", 6, "--levels", "0.5", "--pairs", 1)
    assert answer.exit_code == 1, answer.output
    assert "matching_trials.jsonl" in answer.output.splitlines()[-1]
    assert "Traceback" not in answer.output


def test_an_interrupted_calibration_says_that_it_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    prompts = tmp_path / "log.txt"
    prompts.write_text("\n".join(PROMPTS) + "\n")
    words = ("--model", model, "--prompts", prompts, "--judge", "test_calibrate_matching:redness", "--device", "cpu")
    words = (*words, "--steps", 6, "--levels", "0.5", "--pairs", 3)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "BLOCK", 1)
        patch.setattr(Strips, "keep", lambda _, block: interrupt() if block.pairs[0][0] == 1 else None)
        answer = call(*words)
    assert answer.exit_code == 130, answer.output
    assert answer.output.splitlines()[-1].endswith("the same command goes on from there")
    assert "Traceback" not in answer.output
    kept = (model / "matching_trials.jsonl").read_text()
    assert kept.count('"pairs"') == 1
    assert call(*words).exit_code == 0
    assert (model / "matching_trials.jsonl").read_text().startswith(kept)


def test_an_interrupted_runner_leaves_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    with JobRunner(EngineConfig(model=str(model), kind="local", device="cpu", max_batch=2)) as runner:
        run = RunSettings(4, runner.info.solvers[0], runner.info.default_guidance)
        jobs = text_jobs(["a", "b", "c"], [1, 2, 3], run, runner.info, "job")

        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            runner.run_all(jobs, interrupt)
        assert len(runner.run_all(text_jobs(["a"], [1], run, runner.info, "again"))) == 1
    gc.collect()
    assert "never retrieved" not in caplog.text


def test_a_log_of_unlike_prompts_is_told_so(tmp_path: Path) -> None:
    prompts = tmp_path / "log.txt"
    prompts.write_text("a red cube\nquarterly tax report, table of figures\na red cube\n")
    answer = call("--model", tmp_path, "--prompts", prompts, "--judge", "test_calibrate_matching:redness")
    assert answer.exit_code == 2
    assert "no prompt of this log has an earlier one that is like it" in answer.output.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--judge", "rubbish"), "judge"),
        (("--judge", "os:getcwd"), "not a Judge"),
        (("--judge", "no_such_module:f"), "PYTHONPATH"),
        (("--judge", "test_calibrate_matching:broken"), "KeyError: 'weights'"),
        (("--judge", "test_calibrate_matching:trial_of"), "has no"),
        (("--judge", "test_calibrate_matching:needy"), "TypeError"),
        (("--judge", "clip:/nowhere"), "clip:/nowhere"),
        (("--levels", "1.5"), "levels"),
        (("--levels", "x"), "levels"),
        (("--bound", 0), "bound"),
        (("--visible", "nan"), "visible"),
        (("--visible", "-0.1"), "visible"),
        (("--guidance", "inf"), "guidance"),
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
