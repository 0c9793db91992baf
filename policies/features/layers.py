"""What each named method caches, when and how: one function per kind of method.

All take the run and the method's parameters at the strength asked for, and return the layers of the recipe.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from policies.features.artefact import Calibrations
from policies.features.base import (
    BlockStack,
    CacheLayer,
    CachePolicy,
    Guidance,
    Output,
    Predictor,
    RecipeError,
    SubLayer,
    UNetSkip,
)
from policies.features.choice import Traits
from policies.features.dynamic import AccumulatedDistance, ProbeDistance, RateCodebook
from policies.features.predictors import AdamsBashforth, CFGDelta, ChannelAffine, Linear, Reuse, Taylor
from policies.features.static import (
    DecayingIntervals,
    Interval,
    MagnitudeRatio,
    Mask,
    PowerSpaced,
    first_step_of,
)

ATTENTION, CROSS_ATTENTION, FEED_FORWARD = "attention", "cross-attention", "feed-forward"
THIRD = 1 / 3
"""FasterCache begins after the first third of the run."""


@dataclass(frozen=True, slots=True)
class Run:
    """What a recipe is made for.

    Attributes:
        traits: of the denoiser.
        calibrations: what was found for this denoiser, solver and N.
        steps: N.
        first_step: K.
    """

    traits: Traits
    calibrations: Calibrations
    steps: int
    first_step: int


Knobs = Mapping[str, float]
Layers = tuple[CacheLayer, ...]
Builder = Callable[[Run, Knobs], Layers]


def interval(run: Run, knobs: Knobs) -> Layers:
    """One step in so many, at the shallowest skip connection or on all blocks."""
    return _inside(run, Interval(int(knobs["every"])))


def deepcache_nonuniform(run: Run, knobs: Knobs) -> Layers:
    """As many computes, denser around 0.3 of the run (the paper's c = 15 of 50 steps)."""
    return _inside(run, PowerSpaced(int(knobs["every"]), centre=0.3, power=1.4))


def deepcache_adaptive(run: Run, knobs: Knobs) -> Layers:
    """Whenever what flows in changes; one branch deeper, as `conv_in` alone says little about the content."""
    return _inside(run, ProbeDistance(knobs["threshold"], indicator="entry"), branch=1)


def smoothcache(run: Run, knobs: Knobs) -> Layers:
    """A calibrated schedule for every kind of sub-layer."""
    kinds = _kinds(run, (ATTENTION, CROSS_ATTENTION, FEED_FORWARD))
    masks = {kind: run.calibrations.smoothcache(kind, knobs["alpha"]) for kind in kinds}
    return tuple(CacheLayer(SubLayer(kind), Mask(mask, run.steps), Reuse()) for kind, mask in masks.items())


def teacache(run: Run, knobs: Knobs) -> Layers:
    """The accumulated, fitted change of the first block's modulated input."""
    return _inside(run, AccumulatedDistance(knobs["threshold"], run.calibrations.teacache()))


def magcache(run: Run, knobs: Knobs) -> Layers:
    """The calibrated magnitude ratios."""
    ratios = run.calibrations.magcache()
    return _inside(run, MagnitudeRatio(ratios, knobs["threshold"], int(knobs["max_skips"]), retention=0.2))


def first_block_cache(run: Run, knobs: Knobs) -> Layers:
    """What the first block adds decides on all others."""
    return _inside(run, ProbeDistance(knobs["threshold"]), first=1)


def dbcache(run: Run, knobs: Knobs) -> Layers:
    """What the first two blocks add decides, after a warm-up."""
    return _inside(run, ProbeDistance(knobs["threshold"], warmup=int(knobs["warmup"])), first=2)


def seacache(run: Run, knobs: Knobs) -> Layers:
    """The accumulated change of the filtered signal, unfitted; at most two steps in a row are extrapolated."""
    policy = AccumulatedDistance(knobs["threshold"], indicator="filtered")
    return _inside(run, policy, Taylor(1), max_reused=2)


def adacache(run: Run, knobs: Knobs) -> Layers:
    """The longest rate asked for and one less per bound: 3 and 6 are the authors' slow and fast codebooks.

    On the block stack, where the authors have every attention and feed-forward: their decision is one for all.
    """
    bounds = (0.08, 0.16, 0.24, 0.32, 0.40, 1.0)
    rates = tuple(max(1, int(knobs["longest"]) - place) for place in range(len(bounds)))
    return _inside(run, RateCodebook(bounds, rates))


def taylorseer(run: Run, knobs: Knobs) -> Layers:
    """Three warm-up steps, then one in so many; a straight line in between."""
    return _inside(run, windowed(run, knobs["every"], warmup=3), Taylor(1))


def ab_cache(run: Run, knobs: Knobs) -> Layers:
    """From step 5 on; a parabola through the last three outputs."""
    return (CacheLayer(Output(), windowed(run, knobs["every"], warmup=5), AdamsBashforth(3)),)


def taylor_output(run: Run, knobs: Knobs) -> Layers:
    """Three warm-up steps as in TaylorSeer; a straight line through the last two outputs."""
    return (CacheLayer(Output(), windowed(run, knobs["every"], warmup=3), Taylor(1)),)


def pab(run: Run, knobs: Knobs) -> Layers:
    """Attention outputs, the stabler kind for longer; in the middle of the run (timesteps 800 to 100 of 1000)."""
    every = {ATTENTION: knobs["every"], CROSS_ATTENTION: knobs["cross_every"]}
    return tuple(
        CacheLayer(SubLayer(kind), windowed(run, every[kind], start=0.2, end=0.9), Reuse())
        for kind in _kinds(run, tuple(every))
    )


def cfg_cache(run: Run, knobs: Knobs) -> Layers:
    """The unconditional output after the first third; nothing at all in a run without one."""
    if not run.traits.guided:
        return ()
    return (CacheLayer(Guidance(), windowed(run, knobs["every"], start=THIRD), CFGDelta()),)


def fastercache(run: Run, knobs: Knobs) -> Layers:
    """Attention outputs mixed of the last two, and the unconditional output, both after the first third."""
    policy = windowed(run, knobs["attention_every"], start=THIRD)
    attention = tuple(CacheLayer(SubLayer(kind), policy, Linear()) for kind in _kinds(run, (ATTENTION,)))
    return attention + cfg_cache(run, knobs)


def cachequant(run: Run, knobs: Knobs) -> Layers:
    """Groups of calibrated lengths, each led by a compute, and a correction per channel, at the calibrated cut."""
    every, rest = int(knobs["every"]), run.steps - run.first_step
    flags = run.calibrations.cachequant(math.ceil(rest / every), run.first_step, 2 * every)
    branch = int(run.calibrations.notes("cachequant").get("branch", 0))
    corrections = ChannelAffine(run.calibrations.channel_corrections())
    return _inside(run, Mask(flags, run.steps), corrections, branch=branch)


def step_mask(run: Run, knobs: Knobs) -> Layers:
    """Ever longer intervals."""
    return _inside(run, DecayingIntervals(knobs["of_28"], knobs["of_50"]))


def output_interval(run: Run, knobs: Knobs) -> Layers:
    """One step in so many; the output in between is the last one."""
    return (CacheLayer(Output(), Interval(int(knobs["every"])), Reuse()),)


def windowed(run: Run, every: float, start: float = 0.0, end: float = 1.0, warmup: int = 0) -> Interval:
    """Return an interval policy that counts from the last step before its window.

    Counting from step 0 could put a compute right behind the window's beginning, where everything was computed just
    before, and a longer interval could then compute more often than a shorter one.
    """
    begin = max(warmup, first_step_of(start, run.steps))
    return Interval(int(every), start, end, warmup, phase=max(begin - 1, 0))


def _inside(
    run: Run,
    policy: CachePolicy,
    predictor: Predictor | None = None,
    *,
    first: int = 0,
    branch: int = 0,
    max_reused: int = 0,
) -> Layers:
    """Return the layer on a UNet's branch, or on a transformer's blocks after the first few.

    Args:
        run: what it is made for.
        policy: when the site is computed.
        predictor: how it is formed otherwise; None = reuse.
        first: blocks that are always run.
        branch: of the UNet; 0 saves most.
        max_reused: most reuses in a row; 0 = no bound.
    """
    deepest = max(run.traits.depth - 1, 0)
    if policy.indicator == "increment" and deepest == 0:
        raise RecipeError("a single block adds nothing before the cached part that could be looked at")
    unet = run.traits.architecture == "unet"
    site = UNetSkip(min(branch, deepest)) if unet else BlockStack(min(first, deepest))
    return (CacheLayer(site, policy, predictor or Reuse(), max_reused=max_reused),)


def _kinds(run: Run, wanted: tuple[str, ...]) -> tuple[str, ...]:
    found = tuple(kind for kind in wanted if kind in run.traits.kinds)
    if not found:
        raise RecipeError(f"this model has no sub-layers of kind {' or '.join(wanted)} to cache")
    return found
