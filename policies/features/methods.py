"""The methods of feature caching by name, and from a request's choice to a recipe."""

from collections import Counter
from dataclasses import dataclass, replace

from policies.features import layers
from policies.features.artefact import Calibrations
from policies.features.backends import find_backend
from policies.features.base import Recipe, RecipeError
from policies.features.choice import Architecture, FeatureChoice, Traits
from policies.features.layers import ATTENTION, CROSS_ATTENTION, FEED_FORWARD
from policies.features.strength import Knob, check_strength

UNET: tuple[Architecture, ...] = ("unet",)
TRANSFORMER: tuple[Architecture, ...] = ("transformer",)
BOTH: tuple[Architecture, ...] = ("unet", "transformer")

VERSION = 1
"""To be raised when a method or what its strengths stand for changes: the same choice then makes other pictures."""
BRANCH, BLOCKS, INSIDE = "UNet branch", "block stack", "UNet branch or block stack"
GUIDANCE, OUTPUT = "unconditional output", "output"
REUSE = "reuse"


@dataclass(frozen=True, slots=True)
class Method:
    """One named method.

    Attributes:
        name: what requests call it.
        paper: where it comes from.
        sites: what is cached.
        policy: when it is computed.
        predictor: how it is formed otherwise.
        architectures: of denoisers it runs on.
        knobs: its parameters, each with its values at strengths 0.25, 0.5, 0.75 and 1. Those in the papers are for
            runs of about 28 to 50 steps; the others, and which strength each stands for, are our choice.
        build: makes the layers.
        calibrated: whether it needs an artefact of calibration.
    """

    name: str
    paper: str
    sites: tuple[str, ...]
    policy: str
    predictor: str
    architectures: tuple[Architecture, ...]
    knobs: tuple[Knob, ...]
    build: layers.Builder
    calibrated: bool = False


_EVERY = Knob("every", (2, 3, 5, 8))

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "deepcache", "DeepCache, arXiv 2312.00858",
            (BRANCH,), "one step in `every`", REUSE, UNET, (_EVERY,), layers.interval,
        ),
        Method(
            "deepcache-nonuniform", "DeepCache, arXiv 2312.00858",
            (BRANCH,), "one step in `every`, denser at 0.3 of the run", REUSE, UNET, (_EVERY,),
            layers.deepcache_nonuniform,
        ),
        Method(
            "deepcache-adaptive", "ours, of DeepCache (arXiv 2312.00858) and First Block Cache (ParaAttention)",
            (BRANCH,), "change of what flows into the branch above `threshold`", REUSE, UNET,
            (Knob("threshold", (0.05, 0.1, 0.2, 0.3), "geometric"),), layers.deepcache_adaptive,
        ),
        Method(
            "smoothcache", "SmoothCache, arXiv 2411.10510",
            (ATTENTION, CROSS_ATTENTION, FEED_FORWARD), "calibrated schedule with errors up to `alpha`", REUSE,
            TRANSFORMER, (Knob("alpha", (0.08, 0.18, 0.25, 0.35), "geometric"),), layers.smoothcache,
            calibrated=True,
        ),
        Method(
            "teacache", "TeaCache, arXiv 2411.19108",
            (BLOCKS,), "accumulated, fitted change of the modulated input reaching `threshold`", REUSE, TRANSFORMER,
            (Knob("threshold", (0.25, 0.4, 0.6, 0.8), "geometric"),), layers.teacache, calibrated=True,
        ),
        Method(
            "magcache", "MagCache, arXiv 2506.09045",
            (BLOCKS,), "calibrated magnitude error above `threshold`, or `max_skips` reuses", REUSE, TRANSFORMER,
            (Knob("threshold", (0.03, 0.06, 0.12, 0.24), "geometric"), Knob("max_skips", (2, 3, 4, 5))),
            layers.magcache, calibrated=True,
        ),
        Method(
            "first-block-cache", "First Block Cache, ParaAttention",
            (BLOCKS,), "change of what the first block adds above `threshold`", REUSE, TRANSFORMER,
            (Knob("threshold", (0.05, 0.08, 0.12, 0.2), "geometric"),), layers.first_block_cache,
        ),
        Method(
            "dbcache", "DBCache, cache-dit",
            (BLOCKS,), "change of what the first two blocks add above `threshold`, after `warmup` steps", REUSE,
            TRANSFORMER, (Knob("threshold", (0.05, 0.08, 0.12, 0.2), "geometric"), Knob("warmup", (8, 6, 4, 4))),
            layers.dbcache,
        ),
        Method(
            "seacache", "SeaCache, arXiv 2602.18993",
            (BLOCKS,), "accumulated change of the filtered input reaching `threshold`, at most 2 reuses",
            "Taylor series of order 1", TRANSFORMER, (Knob("threshold", (0.15, 0.25, 0.4, 0.6), "geometric"),),
            layers.seacache,
        ),
        Method(
            "adacache", "AdaCache, arXiv 2411.02397",
            (BLOCKS,), "next compute after 1 to `longest` steps, by the last change", REUSE, TRANSFORMER,
            (Knob("longest", (3, 4, 6, 8)),), layers.adacache,
        ),
        Method(
            "taylorseer", "TaylorSeer, arXiv 2503.06923",
            (INSIDE,), "one step in `every` after 3", "Taylor series of order 1", BOTH,
            (Knob("every", (2, 3, 4, 6)),), layers.taylorseer,
        ),
        Method(
            "ab-cache", "AB-Cache, arXiv 2504.10540",
            (OUTPUT,), "one step in `every` after 5", "Adams-Bashforth of order 3", BOTH,
            (Knob("every", (2, 3, 4, 6)),), layers.ab_cache,
        ),
        Method(
            "taylor-output", "TaylorSeer (arXiv 2503.06923) on the output alone, as diffusers' lite mode",
            (OUTPUT,), "one step in `every` after 3", "Taylor series of order 1", BOTH,
            (Knob("every", (2, 3, 4, 6)),), layers.taylor_output,
        ),
        Method(
            "pab", "Pyramid Attention Broadcast, arXiv 2408.12588",
            (ATTENTION, CROSS_ATTENTION), "one step in `every` (attention) or `cross_every`, from 0.2 to 0.9",
            REUSE, TRANSFORMER, (Knob("every", (2, 2, 3, 4)), Knob("cross_every", (3, 4, 6, 8))), layers.pab,
        ),
        Method(
            "cfg-cache", "CFG-Cache of FasterCache, arXiv 2410.19355",
            (GUIDANCE,), "one step in `every` after a third", "remembered difference by frequency bands", BOTH,
            (Knob("every", (2, 3, 5, 7)),), layers.cfg_cache,
        ),
        Method(
            "fastercache", "FasterCache, arXiv 2410.19355",
            (ATTENTION, GUIDANCE), "one step in `attention_every` or `every` after a third",
            "linear mix of the last two; remembered difference by frequency bands", TRANSFORMER,
            (Knob("attention_every", (2, 2, 2, 3)), Knob("every", (2, 3, 5, 7))), layers.fastercache,
        ),
        Method(
            "cachequant", "CacheQuant without its quantisation, arXiv 2503.01323",
            (INSIDE,), "calibrated groups of `every` steps on average", "reuse, corrected per channel", BOTH,
            (_EVERY,), layers.cachequant, calibrated=True,
        ),
        Method(
            "step-mask", "in the spirit of cache-dit's step masks",
            (INSIDE,), "ever longer intervals, `of_28` computes of 28 steps and `of_50` of 50", REUSE, BOTH,
            (Knob("of_28", (18, 15, 11, 8), "linear"), Knob("of_50", (38, 29, 20, 14), "linear")),
            layers.step_mask,
        ),
        Method(
            "interval", "plain baseline",
            (INSIDE,), "one step in `every`", REUSE, BOTH, (_EVERY,), layers.interval,
        ),
        Method(
            "output-interval", "plain baseline",
            (OUTPUT,), "one step in `every`", REUSE, BOTH, (Knob("every", (2, 2, 3, 4)),), layers.output_interval,
        ),
    )
}  # fmt: skip


def make_recipe(
    choice: FeatureChoice, traits: Traits, calibrations: Calibrations, steps: int, first_step: int = 0
) -> Recipe:
    """Return the layers a choice stands for.

    Args:
        choice: one method or several that stack.
        traits: of the denoiser and the run.
        calibrations: what was found for this denoiser, solver and N.
        steps: N.
        first_step: K.

    Raises:
        RecipeError: the choice cannot be run; `Uncalibrated` where only an artefact is missing.
    """
    check_strength(choice.strength)
    methods = _methods_of(choice.policy, traits.architecture)
    run = layers.Run(traits, calibrations, steps, first_step)
    built = [layer for method in methods for layer in method.build(run, _values(method, choice.strength))]
    return Recipe(tuple(replace(layer, resume_warmup=choice.resume_warmup) for layer in built))


def check_choice(policy: str, architecture: Architecture) -> None:
    """Check names and their combination, as far as that can be told without calibrations and the run.

    Names of `backends.BACKENDS` are fine, too.

    Raises:
        RecipeError: an unknown name, two methods on one site, or a method for other architectures.
    """
    if ":" in policy:
        find_backend(policy, architecture)
        return
    _methods_of(policy, architecture)


def knobs(choice: FeatureChoice) -> dict[str, float]:
    """Return the parameters a choice comes to; of several methods each as "method.parameter".

    Raises:
        RecipeError: an unknown name, or a strength outside (0, 1].
    """
    check_strength(choice.strength)
    if choice.alone:
        return find_backend(choice.policy).values(choice.strength)
    methods = _named(choice.policy)
    return {
        name if len(methods) == 1 else f"{method.name}.{name}": value
        for method in methods
        for name, value in _values(method, choice.strength).items()
    }


def methods_table() -> str:
    """Render every method as a row of a Markdown table."""
    rows = ["| name | site | policy: computed is | predictor | at strength .25 / .5 / .75 / 1 | runs on | from |"]
    rows.append("|---" * 7 + "|")
    for method in METHODS.values():
        strengths = "; ".join(
            f"`{knob.name}` {' / '.join(f'{v:g}' for v in knob.at_anchors)}" for knob in method.knobs
        )
        calibrated = " (calibrated)" if method.calibrated else ""
        cells = (
            f"`{method.name}`{calibrated}",
            ", ".join(method.sites),
            method.policy,
            method.predictor,
            strengths,
            ", ".join(method.architectures),
            method.paper,
        )
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _values(method: Method, strength: float) -> dict[str, float]:
    return {knob.name: knob.at(strength) for knob in method.knobs}


def _named(policy: str) -> tuple[Method, ...]:
    names = [name.strip() for name in policy.split("+")]
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise RecipeError(f"unknown feature cache policy {unknown[0]!r}; known: {', '.join(sorted(METHODS))}")
    return tuple(METHODS[name] for name in names)


def _methods_of(policy: str, architecture: Architecture) -> tuple[Method, ...]:
    """Return the methods called for, all of which run on the architecture, on a site of its own each."""
    methods = _named(policy)
    for method in methods:
        if architecture not in method.architectures:
            needed = " or ".join(method.architectures)
            raise RecipeError(f"feature cache policy {method.name!r} runs on a {needed}, not on a {architecture}")
    taken = Counter(_place(site) for method in methods for site in method.sites)
    shared = [site for site, count in taken.items() if count > 1]
    if shared:
        raise RecipeError(f"two feature cache policies cannot share one site: {shared[0]}")
    return methods


def _place(site: str) -> str:
    """A model has either a branch or a stack, and one of it."""
    return INSIDE if site in (BRANCH, BLOCKS) else site
