"""`headstart calibrate features` on tiny models: what it finds is what hooks see, and the engine runs on it."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_helpers import SIDE, drive, spec
from mix_helpers import BUILDERS
from typer.testing import CliRunner

from policies.features import fits
from policies.features.artefact import CalibrationShelf, Conditions
from policies.features.artefact_file import METHODS, Artefact
from policies.features.base import UNetSkip
from policies.features.choice import FeatureChoice
from policies.features.methods import make_recipe
from service.calibrate.driver import Calibration, CalibrationError, RunFailed, Wish
from service.cli import app
from service.engine.base import JobResult
from service.engine.digest import weights_digest
from service.engine.features.backbones import traits_of
from service.engine.features.caches import FeatureCaches
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop

MODELS = Path("models")
STEPS, SCALE, SEED = 7, 3.0, 40
PROMPTS = ("a red cube", "two blue balls")
FAMILIES = {
    "pixart-sigma": METHODS,
    "stable-diffusion": ("cachequant",),
    "stable-diffusion-3": METHODS,
    "flux": METHODS,
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Builds and keeps a tiny model of a family."""
    kept = {}

    def model(name):
        if name not in kept:
            kept[name] = BUILDERS[name](tmp_path_factory.mktemp(name))
        return kept[name]

    return model


def call(*words):
    return CliRunner().invoke(app, ["calibrate", "features", *map(str, words)])


def calibrated(folder, out, *more, prompts=PROMPTS):
    file = out / "own.txt"
    file.write_text("\ufeff" + "\n\n  ".join(prompts) + "\n", encoding="utf-8")
    words = (
        "--model",
        folder,
        "--steps",
        STEPS,
        "--guidance",
        SCALE,
        "--samples",
        2,
        "--seed",
        SEED,
        "--device",
        "cpu",
    )
    answer = call(*words, "--prompts", file, "--out", out, *more)
    assert answer.exit_code == 0, answer.output
    return answer.output


def conditions(pipeline, **changes):
    info = pipeline.info
    fields = {
        "weights_digest": info.weights_digest,
        "schedule": info.schedule,
        "solver": info.solvers[0],
        "steps": STEPS,
        "width": SIDE,
        "height": SIDE,
        "guidance": SCALE,
        "dtype": "float32",
    }
    return Conditions(**{**fields, **changes})


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_calibrated_holds_for_the_same_conditions_and_runs(models, family, tmp_path):
    folder = models(family)
    told = calibrated(folder, tmp_path)
    pipeline, shelf = load_pipeline(str(folder), "cpu", "float32"), CalibrationShelf(tmp_path)
    assert set(shelf.of(conditions(pipeline)).found) == set(FAMILIES[family])
    assert not shelf.broken
    for change in ({"steps": 8}, {"solver": "unipc"}, {"width": 48}, {"guidance": 8.0}, {"dtype": "float16"}):
        found = shelf.of(conditions(pipeline, **change))
        assert not found.found
        assert next(iter(change)) in found.reason("cachequant")
    for method in FAMILIES[family]:
        assert f"{method}: samples 2" in told
        choice = FeatureChoice(method, 1.0)
        item = spec(steps=STEPS, guidance_scale=SCALE, solver=pipeline.info.solvers[0], features=choice)
        result = drive(StepLoop(pipeline, caches=FeatureCaches(pipeline, shelf)), item)["a"]
        assert isinstance(result, JobResult)
        assert result.features.reason is None
        if method == "cachequant":
            assert result.features.reused > 0
            assert result.features.computed == 1  # seven steps are one group at full strength


class Hooked:
    """Features of plain runs of both samples side by side, [T, rows, tokens, channels], taken by hooks alone."""

    def __init__(self, pipeline):
        self.seen, denoiser = {}, pipeline._denoiser
        handles = list(self.hooks(denoiser))
        for number, prompt in enumerate(PROMPTS):
            self.item = spec(str(number), prompt=prompt, seed=SEED + number, steps=STEPS, guidance_scale=SCALE)
            self.items = [*getattr(self, "items", []), self.item]
        solver = pipeline.info.solvers[0]
        drive(StepLoop(pipeline), *(spec(**{**as_fields(item), "solver": solver}) for item in self.items))
        for handle in handles:
            handle.remove()

    def keep(self, name, tensor):
        self.seen.setdefault(name, []).append(tensor.detach().clone())

    def __getitem__(self, name):
        return torch.stack(self.seen[name]).double().numpy()


def as_fields(item):
    return {name: getattr(item, name) for name in ("job_id", "prompt", "seed", "steps", "guidance_scale")}


class HookedPixArt(Hooked):
    def hooks(self, denoiser):
        blocks = denoiser.transformer_blocks
        yield blocks[0].register_forward_pre_hook(lambda _, given: self.keep("in", given[0]))
        yield blocks[-1].register_forward_hook(lambda _, given, out: self.keep("out", out))
        yield blocks[0].attn1.register_forward_pre_hook(lambda _, given: self.keep("modulated", given[0]))
        for number, block in enumerate(blocks):
            for kind, part in (
                ("attention", block.attn1),
                ("cross-attention", block.attn2),
                ("feed-forward", block.ff),
            ):
                yield part.register_forward_hook(lambda _, given, out, name=(kind, number): self.keep(name, out))


class HookedUNet(Hooked):
    def hooks(self, denoiser):
        last = denoiser.up_blocks[-1].resnets[-1]
        # Before the last skip connection, which `conv_in` left, is put behind it.
        own = last.in_channels - denoiser.conv_in.out_channels
        yield last.register_forward_pre_hook(lambda _, given: self.keep("cut", given[0][:, :own]))


def distances(features):
    return np.mean([fits.step_distances(features[:, row]) for row in range(features.shape[1])], axis=0)


def check_corrections(arrays, features):
    """[T, rows, tokens, C]; every lag up to the end, by plain least squares over all rows."""
    assert arrays["scale"].shape == (STEPS, STEPS - 1, features.shape[-1])
    for anchor in range(STEPS - 1):
        for step in range(anchor + 1, STEPS):
            pair = [features[at].reshape(-1, features.shape[-1]) for at in (anchor, step)]
            scale, offset = fits.channel_fit(*pair)
            found = [arrays[name][anchor, step - anchor - 1].astype(float) for name in ("scale", "offset")]
            assert np.allclose(found[0], scale, rtol=2e-3, atol=2e-3)
            # Not the offset itself, which makes up for the rounding of the scale: where the mean is brought to.
            mean = pair[0].mean(axis=0)
            assert np.allclose(found[0] * mean + found[1], scale * mean + offset, rtol=2e-3, atol=2e-3)


def arrays_of(folder, method):
    (path,) = folder.glob(f"{method}-*.safetensors")
    artefact = Artefact.load(path)
    return artefact.arrays, artefact.notes


def test_a_transformers_fits_are_those_of_features_seen_by_hooks(models, tmp_path):
    folder = models("pixart-sigma")
    calibrated(folder, tmp_path)
    seen = HookedPixArt(load_pipeline(str(folder), "cpu", "float32"))
    residual = seen["out"] - seen["in"]

    ratios = [1.0]
    for now, before in zip(residual[1:], residual[:-1], strict=True):
        ratios.append(float((np.linalg.norm(now, axis=-1) / np.linalg.norm(before, axis=-1)).mean()))
    arrays, _ = arrays_of(tmp_path, "magcache")
    assert np.allclose(arrays["ratios"], ratios, rtol=1e-4)

    arrays, _ = arrays_of(tmp_path, "smoothcache")
    blocks = 1 + max(name[1] for name in seen.seen if isinstance(name, tuple))
    assert set(arrays) == {"attention", "cross-attention", "feed-forward"}
    for kind, errors in arrays.items():
        single = [
            fits.skip_errors(seen[kind, block][:, row]) for block in range(blocks) for row in range(2 * len(PROMPTS))
        ]
        assert np.allclose(errors, np.mean(single, axis=0), rtol=1e-3, atol=1e-6)

    arrays, notes = arrays_of(tmp_path, "cachequant")
    assert np.allclose(arrays["distances"], distances(residual), rtol=1e-3, atol=1e-6)
    check_corrections(arrays, residual)
    assert "branch" not in notes

    # Of each guided pair (rows 0 and 2, 1 and 3) the larger change; the last step is always computed.
    changes = {}
    for name, values in (("in", seen["modulated"]), ("out", residual)):
        far = np.abs(np.diff(values, axis=0)).mean(axis=(2, 3)) / np.abs(values[:-1]).mean(axis=(2, 3))
        changes[name] = np.maximum(far[:-1, :2], far[:-1, 2:]).ravel()
    expected, r_squared = fits.fit_polynomial(changes["in"], changes["out"])
    arrays, notes = arrays_of(tmp_path, "teacache")
    places = np.linspace(changes["in"].min(), changes["in"].max(), 9)
    assert np.allclose(np.polyval(arrays["coefficients"], places), np.polyval(expected, places), rtol=0.02)
    assert notes["r_squared"] == pytest.approx(r_squared, abs=1e-3)
    assert notes["pairs"] == 2 * (STEPS - 2)


def test_a_unets_fits_are_those_of_features_seen_by_hooks(models, tmp_path):
    folder = models("stable-diffusion")
    calibrated(folder, tmp_path)
    cut = np.moveaxis(HookedUNet(load_pipeline(str(folder), "cpu", "float32"))["cut"], 2, -1)
    arrays, notes = arrays_of(tmp_path, "cachequant")
    assert np.allclose(arrays["distances"], distances(cut), rtol=1e-3, atol=1e-6)
    check_corrections(arrays, cut.reshape(STEPS, 2 * len(PROMPTS), -1, cut.shape[-1]))
    assert notes["branch"] == 0
    assert 0.0 < notes["r_squared"] <= 1.0


def test_the_branch_that_was_calibrated_is_the_one_that_is_cut(models, tmp_path):
    folder = models("stable-diffusion")
    calibrated(folder, tmp_path, "--branch", 1)
    pipeline = load_pipeline(str(folder), "cpu", "float32")
    found = CalibrationShelf(tmp_path).of(conditions(pipeline))
    traits = traits_of(pipeline.network.backbone, guided=True)
    recipe = make_recipe(FeatureChoice("cachequant", 0.5), traits, found, STEPS)
    assert recipe.layers[0].site == UNetSkip(1)


def test_only_what_is_asked_for_is_written(models, tmp_path):
    calibrated(models("pixart-sigma"), tmp_path, "--policy", "magcache, cachequant,magcache", "--solver", "ddim")
    names = {path.name.split("x")[0] for path in tmp_path.glob("*.safetensors")}
    assert names == {f"magcache-ddim-{STEPS}-32", f"cachequant-ddim-{STEPS}-32"}


def test_prompts_beside_the_model_are_taken(models, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(models("stable-diffusion"), folder)
    (folder / "features").mkdir()
    (folder / "features" / "prompts.txt").write_text("a cone\n")
    answer = call("--model", folder, "--steps", 3, "--samples", 2, "--solver", "ddim")
    assert answer.exit_code == 0, answer.output
    (path,) = (folder / "features").glob("cachequant-ddim-3-*.safetensors")
    made = Artefact.load(path)
    assert made.key.prompts == Wish(("a cone",), "ddim", 3, 1.0, 32, 32, samples=2).digest
    # What lies there is no part of the model.
    assert weights_digest(folder) == made.key.weights_digest == weights_digest(models("stable-diffusion"))


BAD = {
    "unknown policy": (("--policy", "magic"), 2, "unknown feature cache policy 'magic'"),
    "needs none": (("--policy", "deepcache"), 2, "'deepcache' needs no calibration"),
    "not for a UNet": (("--policy", "cachequant,teacache"), 2, "'teacache' runs on a transformer, not on a unet"),
    "unknown solver": (("--solver", "rk45"), 2, "unknown solver 'rk45'"),
    "two evaluations a step": (("--solver", "heun"), 2, "solver 'heun' takes 7 network evaluations for 4 steps"),
    "too few steps": (("--steps", "1"), 2, "steps must be 2 to 1000"),
    "guidance": (("--guidance", "nan"), 2, "guidance must be a number"),
    "samples": (("--samples", "0"), 2, "samples must be at least 1"),
    "seed": (("--seed", "-1"), 2, "seed must be 0 or more"),
    "width": (("--width", "33"), 2, "width must be a multiple of"),
    "branch": (("--branch", "99"), 2, "branches are 0 to"),
    "no prompts": (("--prompts", "nowhere.txt"), 2, "cannot read prompts from nowhere.txt"),
    "no text": (("--prompts", "binary"), 2, "not UTF-8 text"),
    "nothing in it": (("--prompts", "empty"), 2, "there is no prompt in"),
    "out is a file": (("--out", "empty"), 2, "cannot write to"),
    "no model": (("--model", "empty-folder"), 1, "no model_index.json"),
    "device": (("--device", "abacus"), 1, "unknown device 'abacus'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_clear_line(models, case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good").write_text("a cube\n")
    Path("binary").write_bytes(b"\xff\xfe\x00\xd8")
    Path("empty").write_text(" \n")
    Path("empty-folder").mkdir()
    words, code, message = BAD[case]
    usual = {"--model": models("stable-diffusion"), "--steps": 4, "--prompts": "good", "--out": "made"}
    given = {**usual, **dict(zip(words[::2], words[1::2], strict=True))}
    answer = call(*(part for pair in given.items() for part in pair))
    assert answer.exit_code == code, answer.output
    assert answer.output.count("\n") == 1
    assert answer.output.startswith("headstart: ")
    assert message in answer.output
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_without_prompts_says_what_to_do(models):
    answer = call("--model", models("stable-diffusion"))
    assert answer.exit_code == 2
    assert "give a file with --prompts" in answer.output


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused(models, tmp_path):
    (tmp_path / "p").write_text("a\n")
    (tmp_path / "out").mkdir(mode=0o500)
    answer = call("--model", models("stable-diffusion"), "--prompts", tmp_path / "p", "--out", tmp_path / "out")
    assert answer.exit_code == 2
    assert "cannot write to" in answer.output


def test_too_few_pairs_are_told(models, tmp_path):
    pipeline = load_pipeline(str(models("pixart-sigma")), "cpu", "float32")
    wish = Wish(PROMPTS, "ddim", 3, SCALE, SIDE, SIDE, ("teacache",), samples=2)
    with pytest.raises(CalibrationError, match=r"teacache cannot be fitted: .* needs more than 4 pairs, got 2"):
        Calibration(pipeline, wish).run()


def test_a_run_that_fails_is_no_artefact(models, tmp_path, monkeypatch):
    pipeline = load_pipeline(str(models("pixart-sigma")), "cpu", "float32")
    monkeypatch.setattr(pipeline, "predict", lambda rows: rows.latents * torch.nan)
    with pytest.raises(RunFailed, match="a run failed"):
        Calibration(pipeline, Wish(PROMPTS, "ddim", 4, SCALE, SIDE, SIDE, samples=2)).run()


def test_progress_counts_every_step(models):
    pipeline, steps = load_pipeline(str(models("stable-diffusion")), "cpu", "float32"), []
    Calibration(pipeline, Wish(PROMPTS, "ddim", 3, SCALE, SIDE, SIDE, samples=3)).run(steps.append)
    assert sum(steps) == 9


SHIPPED = [
    (name, solver, steps)
    for name, default in (("scenes-unet", 8), ("scenes-dit", 10))
    for solver, steps in (("ddim", 50), ("dpmpp_2m", 50), ("dpmpp_2m", 20), ("dpmpp_2m", default))
]


@pytest.mark.parametrize(("name", "solver", "steps"), SHIPPED)
def test_the_shipped_artefacts_are_those_of_the_shipped_models(name, solver, steps):
    folder = MODELS / name
    wishes = json.loads((folder / "headstart.json").read_text())
    methods = METHODS if name == "scenes-dit" else ("cachequant",)
    for method in methods:
        (path,) = (folder / "features").glob(f"{method}-{solver}-{steps}-*.safetensors")
        key = Artefact.load(path).key
        assert key.weights_digest == weights_digest(folder)
        assert (key.solver, key.steps, key.dtype) == (solver, steps, "float32")
        assert (key.width, key.guidance) == (wishes["image_size"], wishes["default_guidance"])
        prompts = tuple((folder / "features" / "prompts.txt").read_text().splitlines())
        assert key.prompts == Wish(prompts, solver, steps, 1.0, 128, 128, samples=16).digest
