"""`headstart probe smoothness`: measures against closed forms and finite differences, runs against the engine's."""

import json
import math

import numpy as np
import pytest
import torch
from engine_helpers import SIDE, alone, spec
from mix_helpers import BUILDERS
from typer.testing import CliRunner

from benchmarks.tiny_model import build_tiny_model
from service.cli import app
from service.engine.levels import Level
from service.engine.loading import load_pipeline
from service.probe.command import finite
from service.probe.measures import (
    SHARES,
    directions,
    mix,
    neighbour_distances,
    picture_distance,
    transition_deviation,
    variation,
)
from service.probe.pairs import PromptPair, spread_pairs
from service.probe.smoothness import Wish, clean_prediction, probe_smoothness, rank_correlation
from service.probe.walking import Setting, Walker, deterministic_solvers

PROMPTS = ("a red cube", "a red box", "two blue balls", "night over a lake")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    kept = {}

    def folder(name):
        if name not in kept:
            kept[name] = BUILDERS[name](tmp_path_factory.mktemp(name))
        return kept[name]

    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_pipeline(str(build_tiny_model(tmp_path_factory.mktemp("probed"))), "cpu", "float32")


def setting(solver="ddim", steps=6, guidance=3.0, side=SIDE):
    return Setting(solver, steps, guidance, side, side)


class FakeLinearGenerator:
    """Pictures that are a linear function of the noise."""

    def __init__(self, weights):
        self.weights = weights

    def pictures(self, noises):
        return np.stack([(self.weights @ noise.double().numpy().ravel()) for noise in noises])


def test_a_linear_generator_has_no_transition_deviation():
    first, second = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    linear = FakeLinearGenerator(np.random.default_rng(0).normal(size=(300, 256)))
    pictures = linear.pictures([mix(first.double(), second.double(), share, "linear") for share in SHARES])
    assert neighbour_distances(pictures).mean() > 1
    assert transition_deviation(pictures) == pytest.approx(0, abs=1e-9)
    assert transition_deviation(pictures**3) > 1


def test_on_the_great_circle_an_isometry_has_no_transition_deviation():
    turned = FakeLinearGenerator(np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0])
    first, second = torch.eye(64, dtype=torch.float64)[:2] * 8
    noises = [mix(first, second, share, "slerp") for share in SHARES]
    assert all(float(noise.norm()) == pytest.approx(8) for noise in noises)
    assert transition_deviation(turned.pictures(noises)) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("kind", ["slerp", "linear"])
@pytest.mark.parametrize("second", ["other", "same"])
def test_mixing_ends_at_its_two_noises(kind, second):
    first = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    other = first if second == "same" else torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(mix(first, other, 0.0, kind), first)
    torch.testing.assert_close(mix(first, other, 1.0, kind), other)


def test_distances_are_over_pixels_from_0_to_1():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert picture_distance(black, white) == pytest.approx(1)
    assert neighbour_distances(np.stack([black, white]))[0] == pytest.approx(math.sqrt(12))


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_the_variation_of_a_gaussian_denoiser_is_as_worked_out(share):
    """x0 ~ N(0, s^2): x0hat = alpha s^2 / (alpha^2 s^2 + sigma^2) x_t, so r = sigma^2 |y| times that factor."""
    level, spread = Level.of_flow(share), 0.7
    factor = level.alpha * spread**2 / (level.alpha**2 * spread**2 + level.sigma**2)
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 3, 4, 8, 8, generator=generator)
    towards = directions((3, 4, 8, 8), generator)
    found = variation(lambda latents: factor * latents, x0, noise, level, towards)
    wanted = level.sigma**2 * factor * towards.flatten(1).norm(dim=1).numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("family", BUILDERS)
def test_every_family_is_differentiable_and_predicts_the_same(folders, family):
    pipeline = load_pipeline(str(folders(family)), "cpu", "float32")
    time = pipeline.grid(deterministic_solvers(pipeline)[0], 3, SIDE, SIDE).times[1]
    level = pipeline.level(time)
    clean = clean_prediction(pipeline, PROMPTS[:2], (time, level), setting())
    noises = torch.stack([pipeline.initial_noise(seed, SIDE, SIDE) for seed in (1, 2)])
    towards = directions(tuple(noises.shape), torch.Generator().manual_seed(0))
    found = variation(clean, 0.3 * noises.flip(0), noises, level, towards)
    assert (found > 0).all()
    assert np.isfinite(found).all()
    # A row's value is its own, whatever is beside it.
    alone_ = variation(
        clean_prediction(pipeline, PROMPTS[:1], (time, level), setting()),
        0.3 * noises[1:],
        noises[:1],
        level,
        towards[:1],
    )
    assert alone_[0] == pytest.approx(found[0], rel=1e-3)


@pytest.mark.parametrize("family", ["stable-diffusion", "stable-diffusion-3"])
def test_the_variation_is_what_finite_differences_say(folders, family):
    pipeline, small = load_pipeline(str(folders(family)), "cpu", "float32"), setting(side=16)
    time = pipeline.grid(deterministic_solvers(pipeline)[0], 3, 16, 16).times[1]
    level = pipeline.level(time)
    noise = pipeline.initial_noise(1, 16, 16)[None]
    x0 = 0.3 * pipeline.initial_noise(2, 16, 16)[None]
    towards = directions(tuple(noise.shape), torch.Generator().manual_seed(0))
    found = variation(clean_prediction(pipeline, PROMPTS[:1], (time, level), small), x0, noise, level, towards)

    size, step = noise.numel(), 0.05
    shifts = torch.eye(size).reshape(size, *noise.shape[1:]) * step
    slopes = []
    for part in shifts.split(128):
        clean = clean_prediction(pipeline, PROMPTS[:1] * len(part), (time, level), small)
        with torch.no_grad():
            ends = [clean(level.alpha * x0 + level.sigma * (noise + sign * part)) for sign in (1, -1)]
        slopes.append((level.sigma * towards * (ends[0] - ends[1]).double()).flatten(1).sum(dim=1) / (2 * step))
    assert float(torch.cat(slopes).norm()) == pytest.approx(float(found[0]), rel=0.01)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc", "euler"])
def test_a_walk_draws_the_engines_picture(tiny, solver):
    walker = Walker(tiny, setting(solver), batch=2)
    noises = torch.stack([walker.noise(seed) for seed in (7, 8, 9)])
    pictures = walker.pictures(walker.walk(noises, PROMPTS[:3]).clean)
    for row in (0, 2):
        wanted = alone(tiny, spec(prompt=PROMPTS[row], seed=7 + row, steps=6, solver=solver)).image
        assert np.abs(pictures[row].astype(int) - wanted).max() <= 1


def test_a_first_order_walk_goes_on_from_its_own_state_as_if_nothing_had_been(tiny):
    walker = Walker(tiny, setting(), batch=2)
    noises = torch.stack([walker.noise(seed) for seed in (7, 8, 9)])
    whole = walker.walk(noises, PROMPTS[:3], keep=(2, 4))
    for skipped in (2, 4):
        torch.testing.assert_close(walker.resume(whole.states[skipped], PROMPTS[:3], skipped), whole.clean)


def test_the_report_of_a_probe(tiny):
    pairs = (PromptPair(0, 1, 0.9), PromptPair(2, 2, 1.0), PromptPair(0, 3, 0.1))
    wish = Wish(PROMPTS, pairs, setting(steps=4), levels=2)
    done = []
    report = probe_smoothness(tiny, wish, done.append)
    assert sum(done) == wish.work
    for kind in ("slerp", "linear"):
        found = report["istd"][kind]
        assert found["value"] == pytest.approx(np.mean(found["deviations"]))
        assert found["value"] > 0
    assert report["variation"]["n"] == 6
    assert [row["n"] for row in report["variation"]["levels"]] == [3, 3]
    resumed = report["resume_sensitivity"]
    assert [row["skipped"] for row in resumed["depths"]] == [1, 2]
    # Resumed with its own prompt and a first-order solver, a run ends where it would have ended.
    assert resumed["pairs"][1]["distances"] == [0, 0]
    assert all(row["restart"] == 0 for row in resumed["depths"])
    assert resumed["pairs"][2]["distances"][-1] > 0


def test_pairs_are_spread_from_the_most_similar_down_to_the_median():
    angles = np.array([0.0, 0.1, 0.5, 1.2, 2.0])
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    pairs = spread_pairs(vectors, 4)
    values = [pair.similarity for pair in pairs]
    assert values[0] == pytest.approx(math.cos(0.1))
    assert values == sorted(values, reverse=True)
    assert len({(pair.source, pair.target) for pair in pairs}) == 4
    assert len(spread_pairs(vectors, 100)) == 10


def test_rank_correlation_shares_ranks_among_ties():
    assert rank_correlation(np.array([1.0, 2, 3]), np.array([1.0, 4, 9])) == pytest.approx(1)
    assert rank_correlation(np.array([1.0, 1, 2, 3]), np.array([3.0, 3, 2, 1])) == pytest.approx(-1)
    assert math.isnan(rank_correlation(np.array([1.0, 1]), np.array([1.0, 2])))


def test_what_is_not_a_number_becomes_null():
    assert finite({"a": [math.nan, 1.0, {"b": math.inf}], "c": "text"}) == {
        "a": [None, 1.0, {"b": None}],
        "c": "text",
    }


def call(*words):
    return CliRunner().invoke(app, ["probe", "smoothness", *map(str, words)])


def test_the_command_writes_a_report_and_its_picture(folders, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    answer = call(
        *("--model", folders("stable-diffusion"), "--prompts", prompts, "--quick", "--pairs", 2, "--steps", 3),
        *("--device", "cpu", "--json", tmp_path / "r.json", "--plot", tmp_path / "r.png"),
    )
    assert answer.exit_code == 0, answer.output
    report = json.loads((tmp_path / "r.json").read_text())
    assert (report["steps"], report["pairs"], report["prediction_type"]) == (3, 2, "v_prediction")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert f"variation r: mean {report['variation']['mean']:.4f}" in answer.output
    assert not any(prompt in json.dumps(report) for prompt in PROMPTS)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--steps", 1), "steps must be 2 to 1000, got 1"),
        (("--steps", 0), "steps must be 2 to 1000, got 0"),
        (("--pairs", 1), "pairs must be 2 to 10000, got 1"),
        (("--pairs", 0), "pairs must be 2 to 10000, got 0"),
        (("--solver", "euler_ancestral"), "cannot be probed; this model's that can: "),
        (("--guidance", "nan"), "guidance must be a number"),
        (("--json", "/nowhere/r.json"), "there is no folder /nowhere"),
        (("--json", "/"), "it is a folder"),
        (("--plot", "smooth.foo"), "its name must end in one of "),
        (("--prompts", "/nowhere.txt"), "cannot read prompts from /nowhere.txt"),
    ],
)
def test_bad_input_is_one_clear_line(folders, tmp_path, words, line):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("\n".join(PROMPTS))
    answer = call("--model", folders("stable-diffusion"), "--prompts", prompts, "--device", "cpu", *words)
    assert answer.exit_code == 2
    assert line in answer.output
    assert answer.output.strip().count("\n") == 0


def test_too_few_prompts_and_a_missing_model_are_one_clear_line(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a\na\nb\n")
    few = call("--model", "nowhere", "--prompts", prompts)
    assert (few.exit_code, few.output) == (2, "headstart: at least 3 different prompts are needed, got 2\n")
    prompts.write_text("a\nb\nc\n")
    (tmp_path / "empty").mkdir()
    missing = call("--model", tmp_path / "empty", "--prompts", prompts)
    assert missing.exit_code == 1
    assert missing.output.startswith("headstart: empty has no model_index.json")
