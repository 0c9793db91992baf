"""Feature caching through the loop, on every family: it changes nothing where it must not, and does what it says."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from engine_helpers import point
from feature_helpers import (
    FAMILIES,
    FLUX_RATIOS,
    TRANSFORMERS,
    TracedCaches,
    all_sites,
    asking,
    by_itself,
    inner_sites,
    is_unet,
    layer,
    on,
    plain,
    shelf_of,
    stacked,
    with_recipe,
)
from mix_helpers import Bare, clean

from benchmarks.tiny_model import build_tiny_model
from policies.features.artefact import CALIBRATOR, Artefact, ArtefactKey, CalibrationShelf
from policies.features.base import BlockStack, Decision, Guidance, Recipe, SubLayer, UNetSkip
from policies.features.dynamic import AccumulatedDistance, ProbeDistance, RateCodebook
from policies.features.methods import METHODS
from policies.features.predictors import Taylor
from policies.features.static import Always, Interval, MagnitudeRatio, Mask
from service.engine.batch import join
from service.engine.job import Job
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop


@pytest.fixture(scope="module", params=FAMILIES)
def family(families, request):
    return families(request.param)


def expected(family, **changes):
    return clean(family, plain(asking("own", **on(family, **changes)))).image


class TestAlwaysComputing:
    @pytest.mark.parametrize("guidance", [1.0, 3.0])
    def test_changes_no_bit_whatever_the_site(self, family, guidance):
        reference = expected(family, guidance_scale=guidance, steps=3)
        for site in all_sites(family):
            recipe = Recipe((layer(site, Always()),))
            run = with_recipe(family, recipe, guidance_scale=guidance, steps=3)
            np.testing.assert_array_equal(run.result.image, reference, err_msg=str(site))
            assert run.pattern == "111"
            assert run.result.features.compute_share == pytest.approx(1.0, abs=1e-12)

    def test_nor_does_a_stack_of_all_sites_with_deep_histories(self, family):
        reference = expected(family)
        recipe = stacked(family, Always())
        deep = [replace(part, predictor=Taylor(2)) for part in recipe.layers if part.site != Guidance()]
        for layers in (recipe.layers, tuple(deep)):
            run = with_recipe(family, Recipe(layers))
            np.testing.assert_array_equal(run.result.image, reference)
            assert set(run.pattern) == {"1"}

    def test_so_it_equals_diffusers(self, tmp_path):
        folder = build_tiny_model(tmp_path, beta_schedule="scaled_linear", prediction_type="epsilon")
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        pipe.set_progress_bar_config(disable=True)
        own = load_pipeline(str(folder), "cpu")
        item = asking("own")
        latents = pipe(
            item.prompt,
            num_inference_steps=item.steps,
            guidance_scale=item.guidance_scale,
            generator=torch.Generator().manual_seed(item.seed),
            width=item.width,
            height=item.height,
            output_type="latent",
        ).images[0]
        run = with_recipe(Bare(own), stacked(own, Always()), solver="ddim")
        wanted = latents.permute(1, 2, 0).numpy()
        np.testing.assert_allclose(run.result.image, wanted, rtol=0, atol=1e-4 * max(1.0, np.abs(wanted).max()))


def probes(family):
    """Every indicator this family has, and the site to measure it at."""
    if is_unet(family):
        return {"entry": UNetSkip(1), "filtered": UNetSkip(0), "timestep": UNetSkip(0)}
    stack, tail = BlockStack(), BlockStack(1, 0)
    return {"modulated-input": stack, "timestep": stack, "filtered": stack, "entry": tail, "increment": tail}


class TestThresholds:
    @pytest.mark.parametrize("kind", [ProbeDistance, AccumulatedDistance])
    def test_zero_reuses_nothing(self, family, kind):
        reference = expected(family, steps=4)
        for indicator, site in probes(family).items():
            run = with_recipe(family, Recipe((layer(site, kind(0.0, indicator=indicator)),)), steps=4)
            assert run.pattern == "1111", indicator
            np.testing.assert_array_equal(run.result.image, reference)

    @pytest.mark.parametrize(
        ("kind", "settings", "pattern"),
        [
            (ProbeDistance, {}, "10000000"),
            (ProbeDistance, {"warmup": 3}, "11100000"),
            (AccumulatedDistance, {}, "10000001"),
        ],
    )
    def test_infinity_reuses_all_but_the_forced_steps(self, family, kind, settings, pattern):
        for indicator, site in probes(family).items():
            recipe = Recipe((layer(site, kind(np.inf, indicator=indicator, **settings)),))
            run = with_recipe(family, recipe)
            assert run.pattern == pattern, indicator
            assert run.result.features.compute_share < 1
            assert np.isfinite(run.result.image).all()

    def test_the_engine_forces_what_the_layer_says(self, family):
        site, always = inner_sites(family)[0], ProbeDistance(np.inf, indicator="timestep")
        assert with_recipe(family, Recipe((layer(site, always, force_last=True),))).pattern == "10000001"
        assert with_recipe(family, Recipe((layer(site, always, max_reused=2),))).pattern == "10010010"
        assert with_recipe(family, Recipe((layer(site, always, Taylor(2)),))).pattern == "11100000"
        states = clean(family, plain(asking("own", capture=(0.25,), **on(family)))).captured
        resume = {"resume": (point(states[0], prediction=None),)}
        assert with_recipe(family, Recipe((layer(site, always, resume_warmup=2),)), **resume).pattern == "111000"
        assert with_recipe(family, Recipe((layer(site, always),)), **resume).pattern == "100000"

    def test_a_codebook_by_the_change_of_the_computed_tensor(self, family):
        site = inner_sites(family)[0]
        still = RateCodebook((1e9,), (3,))
        assert with_recipe(family, Recipe((layer(site, still),))).pattern == "11001011"
        moving = RateCodebook((1e-9,), (3,))
        assert with_recipe(family, Recipe((layer(site, moving),))).pattern == "11111111"
        for kind in family.network.backbone.kinds:
            assert with_recipe(family, Recipe((layer(SubLayer(kind), still),))).pattern == "11001011"

    @pytest.mark.parametrize(("kind", "moves"), [(AccumulatedDistance, True), (ProbeDistance, False)])
    def test_an_indicator_is_compared_with_the_evaluation_before_or_the_last_compute(self, family, kind, moves):
        site = inner_sites(family)[1]
        recipe = Recipe((layer(site, kind(np.inf, indicator="entry")),))
        loop = StepLoop(family, caches=TracedCaches(family, recipes={"own": recipe}))
        loop.submit(asking("own", **on(family, guidance_scale=1.0, steps=5)), 0.0)
        seen = []
        for _ in range(4):
            loop.tick()
            run = loop._active[0].features
            seen.append(run.reference(site, ("conditional", 0, 0)).clone())
        assert [not torch.equal(seen[0], later) for later in seen[1:]] == [moves] * 3

    def test_halves_of_a_pair_that_are_not_equally_old_are_computed(self, family):
        if not family.network.pairs:
            pytest.skip("no unconditional row")
        site = inner_sites(family)[0]
        # At step 1 the conditional half alone is computed, at step 2 both are wanted.
        inner, outer = Mask((True, True, False, False), 4), Mask((True, False, True, False), 4)
        run = with_recipe(family, Recipe((layer(Guidance(), outer), layer(site, inner))), steps=4)
        compute, reuse = Decision.COMPUTE, Decision.REUSE
        assert [noted.decisions[Guidance()] for noted in run.traces[-1]] == [compute, reuse, compute, reuse]
        assert [noted.decisions[site] for noted in run.traces[-1]] == [compute, compute, compute, reuse]


STEPS = 12


PAIRS = [
    (method, family)
    for method in METHODS
    for family in FAMILIES
    if ("transformer" if family in TRANSFORMERS else "unet") in METHODS[method].architectures
]


class TestEveryMethod:
    @pytest.mark.parametrize(("method", "name"), PAIRS)
    def test_reuses_something_or_says_why_not(self, families, tmp_path, method, name):
        family = families(name)
        # Its one site is a network row that FLUX does not have.
        assert (method in family.info.feature_policies) == (method != "cfg-cache" or family.network.pairs)
        items = [asking(method, strength, **on(family, steps=STEPS)) for strength in (0.5, 1.0)]
        shelf = shelf_of(family, tmp_path, items) if METHODS[method].calibrated else CalibrationShelf(tmp_path)
        shares = []
        for item in items:
            run = by_itself(family, item, shelf=shelf)
            report = run.result.features
            assert np.isfinite(run.result.image).all()
            if method == "cfg-cache" and not family.network.pairs:
                assert report.reason == "unsupported"
                assert report.reused == 0
                continue
            assert report.reason is None
            assert report.computed + report.reused == STEPS == run.result.evaluations
            assert report.state_bytes > 0
            if report.reused == 0:
                # Random weights change a lot from step to step.
                assert with_recipe(family, heedless(family, item), steps=STEPS).result.features.reused > 0
            else:
                assert 0 < report.compute_share < 1
            shares.append(report.compute_share)
        assert shares == sorted(shares, reverse=True)

    @pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.calibrated])
    def test_says_so_without_calibration(self, family, method):
        if method in family.info.feature_policies:
            item = asking(method, **on(family, steps=4))
            result = by_itself(family, item).result
            assert (result.features.reason, result.features.reused) == ("uncalibrated", 0)
            np.testing.assert_array_equal(result.image, clean(family, plain(item)).image)

    def test_of_another_architecture_says_so_and_runs_plain(self, family):
        strange = next(name for name in METHODS if name not in family.info.feature_policies)
        for policy in (strange, "interval+interval", "no-such"):
            item = asking(policy, **on(family, steps=4))
            result = by_itself(family, item).result
            assert (result.features.reason, result.features.compute_share) == ("unsupported", 1.0)
            np.testing.assert_array_equal(result.image, clean(family, plain(item)).image)

    def test_of_guidance_has_nothing_to_do_without_it(self, family):
        result = by_itself(family, asking("cfg-cache", **on(family, guidance_scale=1.0))).result
        assert (result.features.reason, result.features.reused) == ("unsupported", 0)


def heedless(family, item):
    """A probing method's recipe with a threshold that everything meets."""
    recipe = TracedCaches(family).recipe(item, item.features, 0)
    return Recipe(tuple(replace(part, policy=replace(part.policy, threshold=np.inf)) for part in recipe.layers))


class TestMagCache:
    """The worked vectors of the authors' ratios, as evaluations of a run."""

    @pytest.mark.parametrize(
        ("policy", "first", "pattern"),
        [
            (MagnitudeRatio(FLUX_RATIOS, 0.24, 5, 0.1, never=(11,)), 0, "1110010001010000010000010010"),
            (MagnitudeRatio(FLUX_RATIOS, 0.06, 3, 0.2), 0, "1111110101000100010001001011"),
            (MagnitudeRatio(FLUX_RATIOS, 0.24, 5, 0.2), 0, "1111110001000001000001000010"),
            (MagnitudeRatio(FLUX_RATIOS, 0.24, 5, 0.1, never=(11,)), 10, "110000010000010010"),
            (MagnitudeRatio(FLUX_RATIOS, 0.24, 5, 0.1, never=(11,)), 20, "10000010"),
        ],
    )
    def test_runs_compute_where_the_vectors_say(self, families, policy, first, pattern):
        family = families("flux")
        run = with_recipe(family, Recipe((layer(BlockStack(), policy),)), steps=28, **entering(family, first, 28))
        assert (run.result.skipped, run.pattern) == (first, pattern)
        assert [noted.step for noted in run.traces[-1]] == list(range(first, 28))

    def test_by_its_name_and_artefact(self, families, tmp_path):
        family = families("flux")
        item = asking("magcache", 1.0, **on(family, steps=28))
        info = family.info
        same = (info.weights_digest, info.schedule, item.solver, 28, item.width, item.height, 3.0, info.dtype)
        key = ArtefactKey("magcache", *same, CALIBRATOR, "none")
        Artefact(key, {"ratios": np.float64(FLUX_RATIOS)}).save(tmp_path)
        run = by_itself(family, item, shelf=CalibrationShelf(tmp_path))
        assert run.pattern == "1111110001000001000001000010"


def entering(family, first, steps, **changes):
    """The entry of a job at a step of a plain run's."""
    if first == 0:
        return {}
    item = plain(asking("own", **on(family, steps=steps, capture=(first / steps,), **changes)))
    return {"resume": (point(clean(family, item).captured[0], prediction=None),)}


class TestDeepCache:
    """Uniform DeepCache by hand, of diffusers' own modules."""

    @pytest.mark.parametrize("every", [2, 3])
    def test_is_the_paper_s_method(self, tmp_path, every):
        folder = build_tiny_model(tmp_path, beta_schedule="scaled_linear", prediction_type="epsilon")
        pipe = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        family = load_pipeline(str(folder), "cpu", "float32")
        recipe = Recipe((layer(UNetSkip(0), Interval(every)),))
        run = with_recipe(Bare(family), recipe, solver="ddim")
        wanted = by_hand(pipe, asking("own"), every).permute(1, 2, 0).numpy()
        scale = max(1.0, np.abs(wanted).max())
        np.testing.assert_allclose(run.result.image, wanted, rtol=0, atol=1e-4 * scale)
        full = clean(Bare(family), plain(asking("own"))).image
        assert np.abs(full - wanted).max() > 1e-2 * scale

    def test_compute_share_is_the_mean_of_its_layers(self, families):
        family = families("stable-diffusion")
        profile = family.network.profile(rows_of(family))
        start, end = family.network.backbone.span(UNetSkip(0))
        walked = sum(profile.layers[:start] + profile.layers[end:])
        shallow = (profile.outside + walked) / profile.whole
        assert 0 < shallow < 0.5
        run = with_recipe(family, Recipe((layer(UNetSkip(0), Interval(3)),)), steps=9)
        assert run.pattern == "100100100"
        assert run.result.features.compute_share == pytest.approx((3 + 6 * shallow) / 9)


@torch.inference_mode()
def by_hand(pipe, item, every):
    unet, scheduler = pipe.unet, pipe.scheduler
    last, kept = unet.up_blocks[-1], []
    outermost = unet.config.block_out_channels[0]
    last.resnets[-1].register_forward_pre_hook(lambda _, given: kept.append(given[0][:, :-outermost]))
    states = torch.cat(pipe.encode_prompt(item.prompt, "cpu", 1, True, item.negative_prompt)[::-1])
    latents = pipe.prepare_latents(
        1, 4, item.height, item.width, torch.float32, "cpu", torch.Generator().manual_seed(item.seed)
    )
    scheduler.set_timesteps(item.steps)
    for number, time in enumerate(scheduler.timesteps):
        both = torch.cat([latents] * 2)
        if number % every == 0:
            output = unet(both, time, states).sample
        else:
            embedding = unet.time_embedding(unet.time_proj(time[None].expand(2)))
            deep = kept[-1]
            hidden = torch.cat([deep, unet.conv_in(both)], 1)
            hidden = last.resnets[-1].forward(hidden, embedding)
            hidden = last.attentions[-1](hidden, encoder_hidden_states=states, return_dict=False)[0]
            output = unet.conv_out(unet.conv_act(unet.conv_norm_out(hidden)))
        negative, positive = output.chunk(2)
        output = negative + item.guidance_scale * (positive - negative)
        latents = scheduler.step(output, time, latents).prev_sample
    return latents[0]


def rows_of(family):
    return join([Job.create(plain(asking("own", **on(family))), 0.0, family)])
