"""Feature caching by other libraries: a job alone on a copy of the denoiser, and everyone else untouched."""

import gc
import weakref
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusionPipeline
from engine_helpers import SIDE, drive, finish, point, spec
from lora_helpers import lora, write_lora
from tiny_flux import build_tiny_flux
from tiny_pixart import build_tiny_pixart
from tiny_sd3 import build_tiny_sd3

from policies.features.artefact import CALIBRATOR, Artefact, ArtefactKey, CalibrationShelf
from policies.features.backends import BACKENDS, Backend
from policies.features.base import RecipeError
from policies.features.choice import FeatureChoice
from policies.features.methods import check_choice, knobs
from service.engine.base import Lora
from service.engine.features import borrowed, libraries
from service.engine.features.caches import FeatureCaches, NothingCached
from service.engine.features.run import Ledger
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from service.engine.lora import LoraShelf

pytestmark = [
    # torch's own, at FasterCache's transform
    pytest.mark.filterwarnings("ignore:torch.meshgrid"),
    # cache-dit and what it imports
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
CACHE_DIT = pytest.mark.skipif(not libraries.installed("cache-dit"), reason="cache-dit is not installed")
STEPS = 12
# What each denoiser runs.
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
def plains(families):
    """What a family draws without feature caching."""
    return cache(lambda family: run(families[family], ask(families[family], None)))


@pytest.fixture(scope="module")
def shelves(families, tmp_path_factory):
    """MagCache's ratios: the features never change."""

    return {
        name: shelf_for(made, tmp_path_factory.mktemp("shelf"), made.info.solvers[0])
        for name, made in families.items()
    }


def shelf_for(pipeline, folder, solver):
    info, item = pipeline.info, ask(pipeline, None)
    key = ArtefactKey(
        "magcache", info.weights_digest, info.schedule, solver, STEPS, SIDE, SIDE, item.guidance_scale,
        info.dtype, CALIBRATOR, "prompts",
    )  # fmt: skip
    Artefact(key, {"ratios": np.ones(STEPS)}).save(folder)
    return CalibrationShelf(folder)


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


@pytest.fixture
def bold(monkeypatch):
    """Thresholds for networks of random weights, which change far more from step to step than trained ones."""
    values = Backend.values
    monkeypatch.setattr(
        Backend, "values", lambda self, strength: values(self, strength) | {"threshold": 2.0}, raising=True
    )


def same(one, other):
    return np.array_equal(one.image, other.image) and one.features == other.features


@pytest.mark.usefixtures("bold")
@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_backend_reuses_and_stays_close_and_within_its_memory(families, shelves, plains, family, name):
    pipeline = families[family]
    assert name in pipeline.info.feature_policies
    plain = plains(family)
    loop = loop_of(pipeline, shelves[family])
    item = ask(pipeline, name)
    reckoned = loop._caches.bytes_of(item)
    result = drive(loop, item)["a"]
    report = result.features
    assert report.reason is None
    assert report.computed >= 1
    assert report.reused >= 3
    assert report.computed + report.reused == STEPS
    assert 0 < report.compute_share < 0.95
    assert 0 < report.state_bytes <= reckoned
    assert 0 < np.abs(result.image.astype(int) - plain.image.astype(int)).mean() < 20
    state, exact = result.captured[0], plain.captured[0]
    assert state.approximated or np.allclose(state.latent, exact.latent, atol=0.05, rtol=0.01)
    assert not hooked(pipeline.network.denoiser)


@pytest.mark.usefixtures("bold")
@pytest.mark.parametrize(("family", "name"), CASES)
def test_jobs_side_by_side_are_as_alone(families, shelves, family, name):
    pipeline, shelf = families[family], shelves[family]
    items = [
        ask(pipeline, name, "a"),
        ask(pipeline, name, "b", prompt="two green balls", seed=8),
        ask(pipeline, None, "c", seed=9),
    ]
    together = drive(loop_of(pipeline, shelf), *items)
    for item in items:
        assert same(together[item.job_id], run(pipeline, item, shelf))


@pytest.mark.usefixtures("bold")
@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_run_resumed_from_a_state_begins_by_computing(families, shelves, plains, family, name):
    pipeline, shelf = families[family], shelves[family]
    state = plains(family).captured[0]
    result = run(pipeline, ask(pipeline, name, resume=(point(state, prediction=None),)), shelf)
    assert result.skipped == STEPS // 2
    assert result.features.reason is None
    assert result.features.computed >= 1
    assert result.features.computed + result.features.reused == STEPS // 2


@pytest.mark.parametrize(("family", "name"), ONE_OF_EACH)
def test_an_aborted_job_leaves_nothing(families, monkeypatch, family, name):
    pipeline, copies = families[family], []

    def copied(workshop, copy=borrowed.Workshop.copy):
        made = copy(workshop)
        copies.append(weakref.ref(made))
        return made

    monkeypatch.setattr(borrowed.Workshop, "copy", copied)
    expected = run(pipeline, ask(pipeline, name))
    loop = loop_of(pipeline)
    loop.submit(ask(pipeline, name), 0.0)
    gc.collect()
    gc.disable()
    try:
        for _ in range(6):
            loop.tick()
        assert loop.stats.feature_bytes > 0
        assert copies[-1]() is not None
        loop.cancel("a")
        assert copies[-1]() is None
    finally:
        gc.enable()
    assert loop.stats.feature_bytes == 0
    finish(loop)
    assert same(drive(loop, ask(pipeline, name))["a"], expected)


def test_a_copy_shares_every_weight(families):
    denoiser = families["flux"].network.denoiser
    copied = borrowed.Workshop(denoiser).copy()
    assert copied is not denoiser
    for own, shared in ((copied.parameters(), denoiser.parameters()), (copied.buffers(), denoiser.buffers())):
        assert all(one is other for one, other in zip(own, shared, strict=True))


def test_a_job_of_a_backend_shares_no_forward(families):
    pipeline = families["pixart"]
    loop = loop_of(pipeline)
    drive(loop, *(ask(pipeline, "diffusers:pab", job_id) for job_id in "ab"))
    assert loop.stats.batch_sizes == {1: 2 * STEPS}


@pytest.mark.parametrize("where", ["put_on", "forward"])
def test_what_a_library_cannot_do_costs_nobody_a_picture(families, monkeypatch, where):
    pipeline = families["pixart"]
    plain = run(pipeline, ask(pipeline, None))

    def fail(*_, **__):
        raise TypeError("no such thing")

    def put_on(name, denoiser, settings, put_on=libraries.put_on):
        put_on(name, denoiser, settings)
        denoiser.proj_out.forward = fail

    monkeypatch.setattr(borrowed, "put_on", fail if where == "put_on" else put_on)
    result = run(pipeline, ask(pipeline, "diffusers:pab"))
    assert result.features.reason == "unsupported"
    assert result.features.reused == 0
    assert np.array_equal(result.image, plain.image)


def test_it_goes_on_without_when_memory_is_short(families, monkeypatch):
    pipeline = families["pixart"]
    caches = FeatureCaches(pipeline, budget=1000)
    monkeypatch.setattr(FeatureCaches, "_bytes_borrowed", lambda *_: 10)
    result = drive(StepLoop(pipeline, caches=caches), ask(pipeline, "diffusers:pab"))["a"]
    assert result.features.reason == "too-large"
    assert np.array_equal(result.image, run(pipeline, ask(pipeline, None)).image)
    monkeypatch.undo()
    assert run_with(pipeline, caches, ask(pipeline, "diffusers:pab")).features.reason == "too-large"


def run_with(pipeline, caches, item):
    return drive(StepLoop(pipeline, caches=caches), item)[item.job_id]


@pytest.mark.parametrize(
    ("family", "name", "reason"),
    [
        ("unet", "diffusers:first-block-cache", "unsupported"),
        ("unet", "diffusers:taylorseer-lite", "unsupported"),
        ("sd3", "diffusers:first-block-cache", "unsupported"),
        ("pixart", "diffusers:magcache", "uncalibrated"),
        ("pixart", "diffusers:nonsense", "unsupported"),
    ],
)
def test_reasons(families, family, name, reason):
    pipeline = families[family]
    result = run(pipeline, ask(pipeline, name))
    assert result.features.reason == reason
    assert name not in pipeline.info.feature_policies or reason == "uncalibrated"
    assert np.array_equal(result.image, run(pipeline, ask(pipeline, None)).image)


def test_a_library_that_is_not_there(families, monkeypatch):
    monkeypatch.setattr(libraries, "MODULES", {**libraries.MODULES, "cache-dit": "no_such_module"})
    pipeline = families["pixart"]
    assert run(pipeline, ask(pipeline, "cache-dit:dbcache")).features.reason == "not-installed"
    assert "cache-dit:dbcache" not in borrowed.backends_of(pipeline.network.denoiser)


def test_not_with_loras(families):
    pipeline = families["flux"]
    item = ask(pipeline, "diffusers:pab", loras=(Lora("one", "0" * 64, 1.0),))
    with pytest.raises(NothingCached, match="unsupported"):
        FeatureCaches(pipeline).open(item, item.features, 0, Ledger())


def test_loras_of_others_change_nothing(tiny_model, tmp_path):
    write_lora(StableDiffusionPipeline, tiny_model, tmp_path / "one.safetensors", unet=2)
    pipeline = load_pipeline(str(tiny_model), "cpu", "float32", LoraShelf(tmp_path))
    item = ask(pipeline, "diffusers:pab")
    before = run(pipeline, item)
    caches = FeatureCaches(pipeline)
    dressed = ask(pipeline, None, "b", loras=(lora(tmp_path / "one.safetensors"),))
    beside = drive(StepLoop(pipeline, caches=caches), item, dressed)
    assert same(beside["a"], before)
    assert same(run_with(pipeline, caches, item), before)


def test_magcache_refuses_solvers_that_evaluate_twice_a_step(families, tmp_path):
    pipeline = families["flux"]
    caches = FeatureCaches(pipeline, shelf_for(pipeline, tmp_path, "flow_match_heun"))
    result = run_with(pipeline, caches, ask(pipeline, "diffusers:magcache", solver="flow_match_heun"))
    assert result.features.reason == "unsupported"
    assert result.features.reused == 0


def test_names_are_checked():
    check_choice("diffusers:pab", "unet")
    check_choice("cache-dit:dbcache", "transformer")
    for policy, architecture, message in (
        ("diffusers:first-block-cache", "unet", "runs on a transformer"),
        ("diffusers:pab+cfg-cache", "unet", "do not stack"),
        ("cfg-cache+diffusers:pab", "unet", "do not stack"),
        ("diffusers:nothing", "unet", "unknown feature cache policy"),
    ):
        with pytest.raises(RecipeError, match=message):
            check_choice(policy, architecture)
    assert knobs(FeatureChoice("diffusers:pab", 1.0)) == {"every": 4, "cross_every": 8}
