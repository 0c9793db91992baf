"""Denoisers with 8-bit weights: close to the float ones, smaller, known by another name, and batched as exactly."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from engine_helpers import SIDE, alone, drive, spec
from flow_helpers import final_latent
from mix_helpers import BUILDERS, Bare
from torch import nn

from policies.features.choice import FeatureChoice
from service.assembly import engine_config
from service.engine.base import EngineStartError, Lora
from service.engine.loading import load_configured, load_pipeline
from service.engine.loop import StepLoop
from service.engine.lora import LoraError
from service.engine.placement import Placement
from service.engine.quantise import QuantisedConv2d, QuantisedLayer, QuantisedLinear, coded
from service.settings import SettingsError, load_settings

# How far a picture's latent may be from the float model's, as a share of its own size. Rounding to 255 levels moves
# a weight by 0.3 % of its channel's largest at most.
CLOSE = 0.03


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The float and the quantised pipeline of a family, by name."""
    kept = {}

    def load(name):
        if name not in kept:
            folder = str(BUILDERS[name](tmp_path_factory.mktemp(name)))
            kept[name] = tuple(load_pipeline(folder, "cpu", "float32", quantise=way) for way in ("none", "int8"))
        return kept[name]

    return load


def layers_of(pipeline, kind) -> dict[str, nn.Module]:
    return {path: layer for path, layer in pipeline._denoiser.named_modules() if isinstance(layer, kind)}


def size_of(module) -> int:
    return sum(tensor.nbytes for tensor in (*module.parameters(), *module.buffers()))


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float(((one - other).norm() / other.norm()).detach())


@pytest.mark.parametrize("name", BUILDERS)
def test_pictures_are_close_to_the_float_models(both, name):
    exact, short = both(name)
    item = spec(steps=4, guidance_scale=2.0, solver=exact.info.solvers[0])
    error = apart(final_latent(short, item), final_latent(exact, item))
    assert 0 < error < CLOSE


@pytest.mark.parametrize("name", BUILDERS)
def test_only_layers_inside_the_blocks_are_replaced_and_they_take_a_quarter(both, name):
    exact, short = both(name)
    before, after = layers_of(exact, nn.Linear | nn.Conv2d), layers_of(short, nn.Linear | nn.Conv2d)
    replaced = layers_of(short, QuantisedLayer)
    assert replaced
    assert before.keys() == after.keys() | replaced.keys()
    assert not after.keys() & replaced.keys()
    for path in replaced:
        assert "blocks" in path or "mid_block" in path
        assert "time_emb" not in path
    for path, layer in after.items():
        assert torch.equal(layer.weight, before[path].weight)
    for path in ("conv_in", "conv_out", "time_embedding.linear_1", "pos_embed.proj", "x_embedder", "proj_out"):
        assert path not in replaced
    weights = sum(before[path].weight.nbytes for path in replaced)
    # A scale weighs four bytes, and these layers are narrow.
    assert sum(layer.codes.nbytes for layer in replaced.values()) * 4 == weights
    assert size_of(short._denoiser) < size_of(exact._denoiser) - 0.5 * weights


@pytest.mark.parametrize("name", BUILDERS)
def test_the_weights_are_the_nearest_of_255_levels_of_their_channel(both, name):
    exact, short = both(name)
    before = layers_of(exact, nn.Linear | nn.Conv2d)
    for path, layer in layers_of(short, QuantisedLayer).items():
        weight = before[path].weight
        largest = weight.abs().flatten(1).amax(1).view(layer.scale.shape)
        assert ((layer.weight - weight).abs() <= 0.501 * largest / 127).all()
        assert int(layer.codes.min()) >= -127
        assert (layer.bias is None) == (before[path].bias is None)


def test_it_is_known_by_another_number_type(both):
    exact, short = (pipeline.info for pipeline in both("stable-diffusion"))
    assert (exact.dtype, short.dtype) == ("float32", "float32+int8")
    assert (exact.quantised, short.quantised) == (False, True)
    assert replace(short, dtype=exact.dtype, loras=exact.loras) == exact
    half = Placement(torch.device("cpu"), torch.bfloat16, quantise="int8")
    assert half.number_type == "bfloat16+int8"


def test_a_zero_channel_stays_zero_and_coarse_scales_cost_nothing():
    weight = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    weight[3] *= 1e-9
    weight[4] *= 1e-3
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        codes, scale = coded(weight, dtype)
        assert codes.dtype == torch.int8
        assert scale.dtype == dtype
        made = codes * scale.float()
        assert torch.isfinite(made).all()
        assert torch.equal(made[2], torch.zeros(5))
        assert apart(made[4], weight[4]) < 0.02
        steps = scale.float().expand_as(weight)
        # The scale's own rounding may put the largest weight half a step outside of the 127 levels.
        assert ((made - weight).abs() <= 0.51 * steps + steps * (codes.abs() == 127)).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_stand_in_for_torchs(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(24, 10, bias=False).to(dtype)
        convolutions = [
            nn.Conv2d(8, 6, 3, padding=1, stride=2, groups=2).to(dtype),
            nn.Conv2d(8, 6, 3, padding="same", dilation=2).to(dtype),
        ]
        tokens, picture = torch.randn(2, 3, 24).to(dtype), torch.randn(2, 8, 9, 9).to(dtype)
    pairs = [(linear, QuantisedLinear(linear, dtype), tokens)]
    pairs += [(layer, QuantisedConv2d(layer, dtype), picture) for layer in convolutions]
    for layer, short, given in pairs:
        expected, found = layer(given), short(given)
        assert (found.dtype, found.shape) == (dtype, expected.shape)
        assert apart(found.float(), expected.float()) < 0.02
        assert short.weight.shape == layer.weight.shape
        assert not any(parameter.requires_grad for parameter in short.parameters())


@pytest.mark.parametrize("name", BUILDERS)
def test_a_half_precision_model_is_quantised_in_its_own_type(tmp_path, name):
    pipeline = load_pipeline(str(BUILDERS[name](tmp_path)), "cpu", "bfloat16", quantise="int8")
    assert pipeline.info.dtype == "bfloat16+int8"
    for layer in layers_of(pipeline, QuantisedLayer).values():
        assert (layer.codes.dtype, layer.scale.dtype) == (torch.int8, torch.bfloat16)
    latent = final_latent(pipeline, spec(steps=2, solver=pipeline.info.solvers[0]))
    assert torch.isfinite(latent).all()


def feature_jobs(solver):
    """Two that reuse, one of them guided, beside one that does not."""
    choice = FeatureChoice("interval", 0.5)
    return (
        spec("a", steps=8, solver=solver, features=choice),
        spec("b", steps=6, solver=solver, seed=9, guidance_scale=1.0, features=choice),
        spec("c", steps=5, solver=solver, seed=3, guidance_scale=2.0),
    )


@pytest.mark.parametrize("name", BUILDERS)
def test_feature_caching_in_a_mixed_batch_equals_each_job_alone(both, name):
    short = Bare(both(name)[1])
    specs = feature_jobs(short.info.solvers[0])
    ends = drive(StepLoop(short), *specs)
    for item in specs:
        single = alone(short, item)
        found, expected = ends[item.job_id].image, single.image
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
        report = ends[item.job_id].features
        assert (report is None) == (item.features is None)
        assert report is None or report.reused > 0
    whole = alone(short, replace(specs[0], features=None)).image
    assert not np.array_equal(ends["a"].image, whole)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_compiled_quantised_model_draws_the_same_pictures(tiny_model):
    load = partial(load_pipeline, str(tiny_model), "cpu", "float32", quantise="int8")
    compiled, plain = load(compiled=True), load()
    item = spec(steps=2)
    difference = alone(compiled, item).image.astype(int) - alone(plain, item).image.astype(int)
    assert np.abs(difference).max() <= 1


@pytest.mark.parametrize("name", BUILDERS)
def test_it_takes_no_lora(both, name):
    short = both(name)[1]
    assert not short.info.loras
    loras = (Lora("ink", 64 * "0", 1.0),)
    with pytest.raises(LoraError, match="this model takes no LoRA"):
        short.encode("a red cube", SIDE, SIDE, loras=loras)
    short.encode("a red cube", SIDE, SIDE)


def test_the_setting_is_checked_and_reaches_the_engine(monkeypatch, tiny_model):
    assert load_settings().quantise == "none"
    monkeypatch.setenv("HEADSTART_QUANTISE", "none")
    assert load_settings().quantise == "none"
    monkeypatch.setenv("HEADSTART_QUANTISE", "int8")
    config = engine_config(load_settings(model=str(tiny_model), device="cpu"))
    assert load_configured(config).info.dtype == "float32+int8"
    monkeypatch.setenv("HEADSTART_QUANTISE", "int3")
    with pytest.raises(SettingsError, match=r"bad setting HEADSTART_QUANTISE='int3': .*'int8'"):
        load_settings()


def test_start_errors_are_one_clear_line(tiny_model):
    with pytest.raises(EngineStartError, match=r"^unknown quantisation 'int4'; one of none, int8$"):
        load_pipeline(str(tiny_model), "cpu", "float32", quantise="int4")
    place = Placement(torch.device("cpu"), torch.float32, quantise="int8")
    with pytest.raises(EngineStartError, match=r"^Sequential has no layers that could be quantised$"):
        place.shrink(nn.Sequential(nn.Linear(2, 2)))
