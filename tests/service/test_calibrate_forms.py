"""`headstart calibrate matching --final`: states made again are held to the bounds of the table for true ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.tiny_model import build_tiny_model
from policies.matching import ThresholdRow, ThresholdTable
from service.calibrate.matching.fit import Bound, hits_needed
from service.calibrate.matching.forms import TRUE, WAYS, FormTrial, given_back, rms
from service.calibrate.matching.forms_fit import FormReport, fit_forms
from service.calibrate.matching.pictures import plot_forms
from service.cli import app
from service.engine.base import CapturedState, CleanLatent, JobResult
from service.judges import Judge

BOUND = Bound(rate=0.02, confidence=0.9, visible=0.05)
KEY = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}
TABLE = ThresholdTable(
    (ThresholdRow(0.125, 0.7, 0.5), ThresholdRow(0.5, 0.7, 0.3)), KEY, {"judge": "j", "levels": []}, judged_at=0.125
)
LEVELS = (0.125, 0.5)
PROMPTS = ("a red cube", "a red cube on a table", "two blue balls", "two blue balls in snow", "a red cube, large")
RNG = np.random.default_rng(0)


class BluenessJudge(Judge):
    """How blue the picture is: deterministic, and different for every picture."""

    name = "blueness"
    loss = 0.05

    def score(self, images, prompts):
        return np.array([image[..., 2].mean() / 255 for image in images])


def blueness() -> Judge:
    return BluenessJudge()


def trials(
    count: int, *, way: str, score: float = 1.0, early: float = 0.1, first: int = 0, repeat: bool = False
) -> list[FormTrial]:
    return [
        FormTrial(number, way, repeat, skip, early, early, score, 1.0, 1.0, 0.0 if way == TRUE.name else 0.1)
        for number in range(first, first + count)
        for skip in LEVELS
    ]


def every_way(count: int, **changes: dict[str, float]) -> list[FormTrial]:
    """Good hits of every way, but for what `changes` says of a way."""
    return [one for way in WAYS for one in trials(count, way=way.name, **changes.get(way.name.replace("-", "_"), {}))]


ENOUGH = hits_needed(BOUND)


def test_the_most_compact_form_that_serves_as_well_is_adequate() -> None:
    assert fit_forms(every_way(ENOUGH), TABLE, BOUND).adequate_form == "final"
    refused = fit_forms(every_way(ENOUGH, final={"early": 0.9}), TABLE, BOUND)
    assert refused.adequate_form == "final-noise"
    for level in refused.ways["final"]:
        assert (level.kept, level.served.hits, level.within.hits) == (0.0, 0, ENOUGH)
    bad = fit_forms(every_way(ENOUGH, final={"score": 0.5}, final_noise={"score": 0.5}), TABLE, BOUND)
    assert bad.adequate_form == "trajectory"
    assert bad.ways["final-noise"][0].within.rate == 1.0


def test_too_few_hits_prove_nothing() -> None:
    assert fit_forms(every_way(ENOUGH - 1), TABLE, BOUND).adequate_form == "trajectory"
    assert fit_forms([], TABLE, BOUND).adequate_form == "trajectory"
    assert fit_forms(every_way(ENOUGH), replace(TABLE, rows=()), BOUND).adequate_form == "trajectory"


def test_a_form_must_hold_at_every_level() -> None:
    spoilt = [
        replace(t, resumed=0.5) if t.way in ("final", "final-noise") and t.skip == 0.5 else t
        for t in every_way(ENOUGH)
    ]
    report = fit_forms(spoilt, TABLE, BOUND)
    assert report.adequate_form == "trajectory"
    assert [level.served.rate for level in report.ways["final"]] == [0.0, 1.0]
    without_deep = [t for t in every_way(ENOUGH) if t.way != "final" or t.skip != 0.5]
    assert fit_forms(without_deep, TABLE, BOUND).adequate_form == "final-noise"


def test_repeats_are_entered_unjudged_where_the_noise_is_another() -> None:
    repeats = [t for way in WAYS for t in trials(ENOUGH, way=way.name, first=5000, early=0.9, repeat=True)]
    report = fit_forms([*every_way(ENOUGH), *repeats], TABLE, BOUND)
    final, noise = report.ways["final"][0], report.ways["final-noise"][0]
    assert (final.repeats.hits, final.repeats_kept) == (ENOUGH, 1.0)
    assert (noise.repeats.hits, noise.repeats_kept) == (0, 0.0)
    assert noise.served.hits == ENOUGH
    assert report.adequate_form == "final"
    spoilt = [replace(t, resumed=0.5) if t.way == "final" else t for t in repeats]
    assert fit_forms([*every_way(ENOUGH), *spoilt], TABLE, BOUND).adequate_form == "trajectory"


def test_the_report_is_keyed_like_the_table_and_drawn(tmp_path: Path) -> None:
    report = fit_forms(every_way(ENOUGH, final={"early": 0.9}), TABLE, BOUND)
    report.save(tmp_path / "forms.json", TABLE, ENOUGH)
    saved = json.loads((tmp_path / "forms.json").read_text())
    assert (saved["key"], saved["judged_at"], saved["table_digest"]) == (KEY, 0.125, TABLE.digest)
    assert (saved["adequate_form"], saved["pairs"], saved["metadata"]) == ("final-noise", ENOUGH, {"judge": "j"})
    assert [level["skip"] for level in saved["ways"]["diversity 1"]] == list(LEVELS)
    assert saved["ways"]["final"][1]["within"]["distance"] == pytest.approx(0.1)
    plot_forms(report, BOUND, tmp_path / "forms.png")
    assert (tmp_path / "forms.png").stat().st_size > 1000
    plot_forms(FormReport({way.name: [] for way in WAYS}, "trajectory"), BOUND, tmp_path / "empty.png")


def test_a_form_that_spoils_every_picture_is_drawn_too(tmp_path: Path) -> None:
    """A rate of 1: its limit, pulled in by two hits added, would lie below it."""
    bound = replace(BOUND, confidence=0.5)
    report = fit_forms(every_way(ENOUGH, final={"score": 0.5}), TABLE, bound)
    assert report.ways["final"][0].within.rate == 1.0
    plot_forms(report, bound, tmp_path / "ruined.png")
    assert (tmp_path / "ruined.png").stat().st_size > 1000


def run_of(clean: np.ndarray, noise: np.ndarray) -> JobResult:
    """A run whose states lie on the straight way from a noise to a clean latent."""
    states = []
    for skip, log_snr in ((0.125, -2.0), (0.25, -1.0), (0.5, 1.0)):
        alpha = np.sqrt(1 / (1 + np.exp(-log_snr)))
        latent = (alpha * clean + np.sqrt(1 - alpha**2) * noise).astype(np.float16)
        states.append(
            CapturedState(latent, log_snr, 900 - 900 * skip, skip, clean[:, ::2, ::2].astype(np.float16), 0)
        )
    image = np.zeros((32, 32, 3), np.uint8)
    final = CleanLatent(clean.astype(np.float16), 0)
    return JobResult("a", image, None, 8, 0, 0, (), tuple(states), 0.0, 1.0, 0.1, 0.1, final=final)


def test_states_come_back_as_the_store_gives_them() -> None:
    source = run_of(*RNG.normal(size=(2, 4, 16, 16)))
    true, noise, other = (
        given_back(source, form, 7, 0.125).captured for form in ("trajectory", "final-noise", "final")
    )
    for before, own, same, fresh in zip(source.captured, true, noise, other, strict=True):
        assert np.array_equal(before.latent, own.latent)
        np.testing.assert_allclose(same.latent, before.latent, atol=0.02)
        assert np.abs(fresh.latent.astype(float) - before.latent).mean() > 0.2
        for one in (own, same, fresh):
            assert (one.skip, one.timestep) == (before.skip, before.timestep)
            assert np.array_equal(one.prediction, before.prediction)


def test_distance_is_a_share_of_the_range() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert (rms(black, white), rms(white, white)) == (1.0, 0.0)


def test_a_tiny_model_is_profiled_and_gone_on_with(tmp_path: Path) -> None:
    model = build_tiny_model(tmp_path / "tiny")
    (tmp_path / "log.txt").write_text("\n".join(PROMPTS) + "\n")
    out = tmp_path / "out"
    words = ["--model", model, "--prompts", tmp_path / "log.txt", "--judge", "test_calibrate_forms:blueness"]
    words += ["--out", out, "--steps", 6, "--levels", "0.2,0.5", "--device", "cpu", "--batch", 4]

    def call(*more: object) -> str:
        answer = CliRunner().invoke(app, ["calibrate", "matching", *map(str, [*words, *more])])
        assert answer.exit_code == 0, answer.output
        return answer.output

    assert "HEADSTART_STATE_FORM" not in call("--pairs", 2)
    assert not (out / "matching_forms.json").exists()
    told = call("--pairs", 2, "--final", "--bound", 0.9, "--confidence", 0.5)
    assert "kept of a run by HEADSTART_STATE_FORM=auto: trajectory" in told
    first = (out / "matching_forms.jsonl").read_text()
    found = [FormTrial(**one) for one in json.loads(first.splitlines()[1])["trials"]]
    # A level of one step saves nothing where one is spent on exchanging noise.
    expected = {(way.name, skip) for way in WAYS for skip in (1 / 6, 0.5) if skip > 0.2 or not way.diversity}
    assert {(trial.way, trial.skip) for trial in found} == expected
    far = {way.name: max(trial.distance for trial in found if trial.way == way.name) for way in WAYS}
    assert far["trajectory"] == 0.0
    assert far["final-noise"] < far["final"]
    assert 0.0 < far["diversity 0.5"] < far["diversity 1"]
    saved = json.loads((out / "matching_forms.json").read_text())
    assert saved["pairs"] == 2
    assert (out / "matching_forms.png").stat().st_size > 1000
    assert ThresholdTable.load(out / "matching.json").adequate_form == saved["adequate_form"]
    call("--pairs", 3, "--final")
    assert (out / "matching_forms.jsonl").read_text().startswith(first)
