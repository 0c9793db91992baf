"""From a name and a strength to a recipe."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.features.artefact import Calibrations, Uncalibrated
from policies.features.base import (
    BlockStack,
    CacheLayer,
    ChannelCorrection,
    Guidance,
    Output,
    Recipe,
    RecipeError,
    StaticPolicy,
    SubLayer,
    UNetSkip,
)
from policies.features.choice import FeatureChoice, Traits
from policies.features.dynamic import AccumulatedDistance, ProbeDistance, RateCodebook
from policies.features.methods import METHODS, check_choice, knobs, make_recipe
from policies.features.predictors import AdamsBashforth, CFGDelta, ChannelAffine, Linear, Reuse, Taylor
from policies.features.static import DecayingIntervals, Interval, MagnitudeRatio, Mask, PowerSpaced
from policies.features.strength import ANCHORS, Knob

KINDS = ("attention", "cross-attention", "feed-forward")
UNET = Traits("unet", 12, (), True)
TRANSFORMER = Traits("transformer", 28, KINDS, True)
TRAITS = {"unet": UNET, "transformer": TRANSFORMER}
COEFFICIENTS = (4.0, 3.0, 2.0, 1.0, 0.5)
ON = [(name, architecture) for name, method in sorted(METHODS.items()) for architecture in method.architectures]
STATIC = {
    *("deepcache", "deepcache-nonuniform", "smoothcache", "magcache", "taylorseer", "ab-cache", "taylor-output"),
    *("pab", "cfg-cache", "fastercache", "cachequant", "step-mask", "interval", "output-interval"),
}


class Calibrated:
    """As if everything had been calibrated, for runs of `steps` steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.asked: dict[str, tuple[Any, ...]] = {}
        self.noted: dict[str, float] = {}

    def notes(self, method: str) -> Mapping[str, float]:
        return self.noted

    def teacache(self) -> tuple[float, ...]:
        return COEFFICIENTS

    def magcache(self) -> tuple[float, ...]:
        return tuple(math.exp(0.1 - 0.2 * i / self.steps) for i in range(self.steps))

    def smoothcache(self, kind: str, alpha: float) -> tuple[bool, ...]:
        return tuple(i % (1 + int(10 * alpha)) == 0 for i in range(self.steps))

    def cachequant(self, groups: int, first_step: int, max_group: int | None = None) -> tuple[bool, ...]:
        self.asked["cachequant"] = (groups, first_step, max_group)
        rest = self.steps - first_step
        starts = {rest * group // groups for group in range(groups)}
        return tuple(i - first_step in starts for i in range(self.steps))

    def channel_corrections(self) -> Mapping[tuple[int, int], ChannelCorrection]:
        return {(0, 1): ChannelCorrection((2.0,), (0.5,))}


class Missing(Calibrated):
    """As if nothing had been."""

    def _refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise Uncalibrated("not calibrated")

    teacache = magcache = smoothcache = cachequant = channel_corrections = _refuse


def recipe(
    policy: str,
    architecture: str = "unet",
    strength: float = 0.5,
    steps: int = 28,
    first_step: int = 0,
    **traits: Any,
) -> Recipe:
    there = TRAITS[architecture]
    given_traits = Traits(**{**{name: getattr(there, name) for name in Traits.__slots__}, **traits})
    calibrations = cast(Calibrations, Calibrated(steps))
    return make_recipe(FeatureChoice(policy, strength), given_traits, calibrations, steps, first_step)


def only(found: Recipe) -> CacheLayer:
    (layer,) = found.layers
    return layer


def computes(found: Recipe, steps: int, first_step: int = 0) -> list[int]:
    """Steps every layer computes from the entry on, all layers static."""
    policies = [cast(StaticPolicy, layer.policy) for layer in found.layers]
    return [sum(policy.mask(steps, first_step)[first_step + 1 :]) + 1 for policy in policies]


@pytest.mark.parametrize(("name", "architecture"), ON)
class TestEveryMethod:
    @pytest.mark.parametrize("strength", [0.01, 0.25, 0.6, 1.0])
    def test_makes_a_recipe_for_any_run(self, name: str, architecture: str, strength: float) -> None:
        for steps, first_step in ((1, 0), (4, 2), (28, 0), (50, 20), (50, 49)):
            found = recipe(name, architecture, strength, steps, first_step)
            assert found.layers
            assert found == recipe(name, architecture, strength, steps, first_step)
            for layer in found.layers:
                if isinstance(layer.policy, StaticPolicy):
                    assert len(layer.policy.mask(steps, first_step)) == steps

    def test_passes_the_early_check_and_tells_its_parameters(
        self, name: str, architecture: Literal["unet", "transformer"]
    ) -> None:
        check_choice(name, architecture)
        for place, strength in enumerate(ANCHORS):
            used = knobs(FeatureChoice(name, strength))
            assert used == {knob.name: knob.at_anchors[place] for knob in METHODS[name].knobs}
            assert used

    def test_refuses_strengths_out_of_range(self, name: str, architecture: str) -> None:
        for strength in (0.0, -0.5, 1.01, math.nan, math.inf):
            with pytest.raises(RecipeError, match="strength"):
                recipe(name, architecture, strength)
            with pytest.raises(RecipeError, match="strength"):
                knobs(FeatureChoice(name, strength))

    def test_says_what_it_is(self, name: str, architecture: str) -> None:
        method = METHODS[name]
        assert method.name == name
        assert all((method.paper, method.sites, method.policy, method.predictor))
        quoted = set(re.findall(r"`(\w+)`", method.policy))
        assert quoted == {knob.name for knob in method.knobs}

    def test_asks_for_calibration_only_where_it_says_so(self, name: str, architecture: str) -> None:
        choice, missing = FeatureChoice(name, 0.5), cast(Calibrations, Missing(28))
        if METHODS[name].calibrated:
            with pytest.raises(Uncalibrated):
                make_recipe(choice, TRAITS[architecture], missing, 28)
        else:
            assert make_recipe(choice, TRAITS[architecture], missing, 28).layers

    def test_is_known_ahead_or_not(self, name: str, architecture: str) -> None:
        static = [isinstance(layer.policy, StaticPolicy) for layer in recipe(name, architecture).layers]
        assert all(static) == any(static) == (name in STATIC)


@pytest.mark.parametrize(
    ("name", "architecture"), [(name, architecture) for name, architecture in ON if name in STATIC]
)
@given(steps=st.integers(1, 60), strengths=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_more_strength_never_computes_more(
    name: str, architecture: str, steps: int, strengths: tuple[float, float]
) -> None:
    careful, bold = (computes(recipe(name, architecture, strength, steps), steps) for strength in sorted(strengths))
    assert all(more >= less for more, less in zip(careful, bold, strict=True))


class TestWhatEachIsMadeOf:
    def test_deepcache(self) -> None:
        layer = only(recipe("deepcache", strength=0.75))
        assert (layer.site, layer.policy, layer.predictor) == (UNetSkip(0), Interval(5), Reuse())
        assert only(recipe("deepcache-nonuniform")).policy == PowerSpaced(3, 0.3, 1.4)
        adaptive = only(recipe("deepcache-adaptive"))
        assert (adaptive.site, adaptive.policy) == (UNetSkip(1), ProbeDistance(0.1, indicator="entry"))
        assert only(recipe("deepcache-adaptive", depth=1)).site == UNetSkip(0)

    def test_smoothcache(self) -> None:
        layers = recipe("smoothcache", "transformer").layers
        assert {layer.site for layer in layers} == {SubLayer(kind) for kind in KINDS}
        assert {layer.policy for layer in layers} == {Mask((True, False) * 14, 28)}
        some = recipe("smoothcache", "transformer", kinds=("attention",))
        assert only(some).site == SubLayer("attention")

    def test_methods_on_the_block_stack(self) -> None:
        tea = only(recipe("teacache", "transformer"))
        assert (tea.site, tea.policy) == (BlockStack(), AccumulatedDistance(0.4, COEFFICIENTS))
        mag = only(recipe("magcache", "transformer"))
        assert mag.policy == MagnitudeRatio(Calibrated(28).magcache(), 0.06, 3, 0.2)
        first = only(recipe("first-block-cache", "transformer"))
        assert (first.site, first.policy) == (BlockStack(1, 0), ProbeDistance(0.08))
        blocks = only(recipe("dbcache", "transformer"))
        assert (blocks.site, blocks.policy) == (BlockStack(2, 0), ProbeDistance(0.08, warmup=6))
        assert only(recipe("dbcache", "transformer", depth=2)).site == BlockStack(1, 0)
        sea = only(recipe("seacache", "transformer"))
        assert sea.policy == AccumulatedDistance(0.25, indicator="filtered")
        assert (sea.predictor, sea.max_reused) == (Taylor(1), 2)

    def test_adacache_has_the_authors_codebooks(self) -> None:
        bounds = (0.08, 0.16, 0.24, 0.32, 0.4, 1.0)
        slow, fast = (only(recipe("adacache", "transformer", strength)).policy for strength in (0.25, 0.75))
        assert slow == RateCodebook(bounds, (3, 2, 1, 1, 1, 1))
        assert fast == RateCodebook(bounds, (6, 5, 4, 3, 2, 1))

    def test_taylorseer_computes_as_often_as_the_paper(self) -> None:
        for architecture, site in (("unet", UNetSkip(0)), ("transformer", BlockStack())):
            found = recipe("taylorseer", architecture, 1.0)
            assert (only(found).site, only(found).predictor) == (site, Taylor(1))
            assert computes(found, 28) == [7]

    def test_methods_on_the_output(self) -> None:
        found = only(recipe("ab-cache", strength=1.0))
        assert (found.site, found.predictor) == (Output(), AdamsBashforth(3))
        assert found.policy == Interval(6, warmup=5, phase=4)
        assert only(recipe("taylor-output")).predictor == Taylor(1)
        plain = only(recipe("output-interval", "transformer", 0.75))
        assert (plain.site, plain.policy, plain.predictor) == (Output(), Interval(3), Reuse())

    def test_pab_keeps_cross_attention_for_longer(self) -> None:
        attention, cross = recipe("pab", "transformer", 0.75, 50).layers
        assert attention.policy == Interval(3, 0.2, 0.9, phase=9)
        assert cross.policy == Interval(6, 0.2, 0.9, phase=9)
        assert (attention.site, cross.site) == (SubLayer("attention"), SubLayer("cross-attention"))

    def test_guidance_is_reused_after_a_third_and_only_where_there_is_one(self) -> None:
        layer = only(recipe("cfg-cache", strength=0.75, steps=30))
        assert (layer.site, layer.predictor) == (Guidance(), CFGDelta())
        assert layer.policy == Interval(5, start=1 / 3, phase=9)
        assert recipe("cfg-cache", guided=False).layers == ()

    def test_fastercache_is_two_layers(self) -> None:
        guidance, attention = recipe("fastercache", "transformer").layers
        assert (guidance.site, attention.site) == (Guidance(), SubLayer("attention"))
        assert attention.predictor == Linear()
        assert only(recipe("fastercache", "transformer", guided=False)).site == SubLayer("attention")

    def test_cachequant_groups_what_remains(self) -> None:
        calibrations = Calibrated(28)
        choice = FeatureChoice("cachequant", 0.75)
        found = make_recipe(choice, TRANSFORMER, cast(Calibrations, calibrations), 28, 10)
        assert calibrations.asked["cachequant"] == (4, 10, 10)
        layer = only(found)
        assert isinstance(layer.predictor, ChannelAffine)
        assert cast(Mask, layer.policy).mask(28, 10)[10]
        assert computes(found, 28, 10) == [4]

    def test_step_mask_has_the_totals_of_cache_dit(self) -> None:
        totals = [computes(recipe("step-mask", strength=s, steps=n), n)[0] for n in (28, 50) for s in ANCHORS]
        assert totals == [18, 15, 11, 8, 38, 29, 20, 14]
        assert isinstance(only(recipe("step-mask")).policy, DecayingIntervals)


class TestStacking:
    def test_layers_are_joined_from_the_outside_in(self) -> None:
        found = recipe("deepcache+cfg-cache+ab-cache")
        assert [type(layer.site) for layer in found.layers] == [Output, Guidance, UNetSkip]
        assert found == recipe("ab-cache + cfg-cache + deepcache")
        assert len(recipe("teacache+smoothcache+cfg-cache", "transformer").layers) == 5

    @pytest.mark.parametrize(
        ("policy", "architecture"),
        [
            ("deepcache+deepcache", "unet"),
            ("deepcache+interval", "unet"),
            ("ab-cache+output-interval", "unet"),
            ("teacache+first-block-cache", "transformer"),
            ("fastercache+cfg-cache", "transformer"),
            ("pab+smoothcache", "transformer"),
        ],
    )
    def test_no_two_on_one_site(self, policy: str, architecture: Literal["unet", "transformer"]) -> None:
        for guided in (True, False):
            with pytest.raises(RecipeError, match="cannot share one site"):
                recipe(policy, architecture, guided=guided)
        with pytest.raises(RecipeError, match="cannot share one site"):
            check_choice(policy, architecture)

    @pytest.mark.parametrize("first", sorted(METHODS))
    @pytest.mark.parametrize("architecture", ["unet", "transformer"])
    def test_the_early_check_agrees_with_the_recipe(
        self, first: str, architecture: Literal["unet", "transformer"]
    ) -> None:
        def outcome(attempt: Callable[..., object], policy: str) -> str:
            try:
                attempt(policy, architecture)
            except RecipeError as error:
                return str(error)
            return "fine"

        for second in METHODS:
            both = f"{first}+{second}"
            assert outcome(check_choice, both) == outcome(recipe, both)
            assert "\n" not in outcome(recipe, both)

    def test_parameters_carry_their_method(self) -> None:
        assert knobs(FeatureChoice("deepcache+cfg-cache", 0.75)) == {"deepcache.every": 5, "cfg-cache.every": 5}


class TestRefusals:
    @pytest.mark.parametrize("policy", ["deepcash", "", "deepcache+", "deepcache,pab"])
    def test_an_unknown_name_lists_the_known_ones(self, policy: str) -> None:
        for attempt in (lambda: recipe(policy), lambda: knobs(FeatureChoice(policy, 0.5))):
            with pytest.raises(RecipeError, match="unknown feature cache policy") as refused:
                attempt()
            assert all(name in str(refused.value) for name in METHODS)

    def test_another_architecture(self) -> None:
        with pytest.raises(RecipeError, match="'teacache' runs on a transformer, not on a unet"):
            recipe("teacache")
        with pytest.raises(RecipeError, match="'deepcache' runs on a unet, not on a transformer"):
            check_choice("deepcache", "transformer")

    @pytest.mark.parametrize("policy", ["smoothcache", "pab", "fastercache"])
    def test_blocks_that_cannot_be_taken_apart(self, policy: str) -> None:
        with pytest.raises(RecipeError, match="no sub-layers of kind attention"):
            recipe(policy, "transformer", kinds=())


class TestKnob:
    def test_runs_through_its_anchors(self) -> None:
        integer, geometric = Knob("n", (2, 3, 5, 8)), Knob("t", (0.1, 0.2, 0.4, 0.4), "geometric")
        assert [integer.at(strength) for strength in (0.01, *ANCHORS)] == [2, 2, 3, 5, 8]
        assert [integer.at(strength) for strength in (0.3, 0.375, 0.625, 0.9)] == [2, 3, 4, 7]
        assert [geometric.at(strength) for strength in ANCHORS] == pytest.approx([0.1, 0.2, 0.4, 0.4])
        assert geometric.at(0.375) == pytest.approx(0.1 * math.sqrt(2))

    def test_linear_ones_are_not_rounded(self) -> None:
        assert Knob("n", (18, 15, 11, 8), "linear").at(0.375) == 16.5
