"""Feature caching by other libraries: a job alone on a copy of the denoiser, and everyone else untouched."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel
from engine_helpers import SIDE, alone, drive, finish, point, spec
from tiny_flux import build_tiny_flux
from tiny_pixart import build_tiny_pixart
from tiny_sd3 import build_tiny_sd3

from policies.features.artefact import CALIBRATOR, Artefact, ArtefactKey, CalibrationShelf
from policies.features.backends import BACKENDS
from policies.features.base import RecipeError
from policies.features.choice import FeatureChoice
from policies.features.methods import check_choice, knobs
from service.engine.base import JobFailed, Lora
from service.engine.features import borrowed, libraries
from service.engine.features.caches import FeatureCaches
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop

pytestmark = [
    # torch's own, at FasterCache's transform
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    # cache-dit and what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CACHE_DIT = pytest.mark.skipif(not libraries.installed("cache-dit"), reason="cache-dit is not installed")
STEPS = 12
# What each denoiser runs. The tiny FLUX changes too much from step to step for thresholds made for real models.
WORKS = [
    *(("unet", name) for name in ("diffusers:pab", "diffusers:taylorseer")),
    *(("pixart", name) for name in BACKENDS),
    *(("sd3", name) for name in BACKENDS if name not in libraries.REFUSED[SD3Transformer2DModel]),
    *(("flux", name) for name in BACKENDS),
]
CASES = [
    pytest.param(family, name, marks=[CACHE_DIT] if name.startswith("cache-dit") else []) for family, name in WORKS
]
ONE_OF_EACH = [("unet", "diffusers:taylorseer"), ("pixart", "diffusers:first-block-cache"), ("flux", "diffusers:pab")]


def enlarge(folder, kind, **settings):
    """Replace the transformer by a deeper one."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = kind.load_config(folder / "transformer")
        kind.from_config({**config, **settings}).save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def families(tmp_path_factory, pipeline):
    def folder(name):
        return tmp_path_factory.mktemp(name)

    built = {
        "pixart": build_tiny_pixart(folder("pixart"), num_layers=4),
        "sd3": enlarge(build_tiny_sd3(folder("sd3")), SD3Transformer2DModel, num_layers=4),
        "flux": enlarge(build_tiny_flux(folder("flux")), FluxTransformer2DModel, num_layers=3, num_single_layers=3),
    }
    return {"unet": pipeline, **{name: load_pipeline(str(path), "cpu", "float32") for name, path in built.items()}}


@pytest.fixture(scope="module")
def shelves(families, tmp_path_factory):
    """MagCache's ratios: the features never change."""

    def shelf(name):
        info, folder = families[name].info, tmp_path_factory.mktemp("shelf")
        item = ask(families[name], None)
        key = ArtefactKey(
            "magcache", info.weights_digest, info.schedule, item.solver, STEPS, SIDE, SIDE, item.guidance_scale,
            info.dtype, CALIBRATOR, "prompts",
        )  # fmt: skip
        Artefact(key, {"ratios": np.ones(STEPS)}).save(folder)
        return CalibrationShelf(folder)

    return {name: shelf(name) for name in families}


def ask(pipeline, policy, job_id="a", strength=1.0, **changes):
    features = None if policy is None else FeatureChoice(policy, strength)
    fields = {"solver": pipeline.info.solvers[0], "steps": STEPS, "features": features, "capture": (0.5,)}
    return spec(job_id, **{**fields, **changes})


def loop_of(pipeline, shelf=None):
    return StepLoop(pipeline, caches=FeatureCaches(pipeline, shelf) if shelf else None)


def run(pipeline, item, shelf=None):
    return drive(loop_of(pipeline, shelf), item)[item.job_id]


def hooked(denoiser):
    return [module for module in denoiser.modules() if {"forward", "_diffusers_hook"} & set(vars(module))]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_backend_reuses_and_stays_close(families, shelves, family, name):
    pipeline = families[family]
    assert name in pipeline.info.feature_policies
    plain = run(pipeline, ask(pipeline, None))
    loop = loop_of(pipeline, shelves[family])
    item = ask(pipeline, name)
    reckoned = loop._caches.bytes_of(item)
    result = drive(loop, item)["a"]
    report = result.features
    assert report.reason is None
    assert report.computed >= 1
    assert report.computed + report.reused == STEPS
    assert 0 < report.state_bytes <= reckoned
    if report.reused:
        assert 0 < report.compute_share < 1
        assert not np.array_equal(result.captured[0].latent, plain.captured[0].latent) or report.reused < STEPS
    far = np.abs(result.image.astype(int) - plain.image.astype(int)).mean()
    print(family, name, report.computed, report.reused, report.compute_share, far, report.state_bytes, reckoned)
    assert not hooked(pipeline.network.denoiser)
