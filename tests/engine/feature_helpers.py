"""Feature caching in the loop: recipes and artefacts of choice, and a record of what every evaluation did."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from engine_helpers import finish, spec
from mix_helpers import Arrival, assert_close, play

from policies.features.artefact import CALIBRATOR, Artefact, ArtefactKey, CalibrationShelf
from policies.features.base import BlockStack, CacheLayer, Decision, Guidance, Output, Recipe, SubLayer, UNetSkip
from policies.features.choice import FeatureChoice
from policies.features.methods import METHODS
from policies.features.predictors import CFGDelta, Reuse
from policies.features.static import Always
from service.engine.features.caches import FeatureCaches
from service.engine.features.run import FeatureRun
from service.engine.loop import StepLoop

UNETS = ("stable-diffusion", "stable-diffusion-xl")
TRANSFORMERS = ("pixart-sigma", "stable-diffusion-3", "flux")
FAMILIES = (*UNETS, *TRANSFORMERS)
FLUX_RATIOS = (
    *(1.0, 1.21094, 1.11719, 1.07812, 1.0625, 1.03906, 1.03125, 1.03906, 1.02344, 1.03125, 1.02344, 0.98047, 1.01562),
    *(1.00781, 1.0, 1.00781, 1.0, 1.00781, 1.0, 1.0, 0.99609, 0.99609, 0.98047, 0.98828, 0.96484, 0.95703, 0.93359),
    0.89062,
)
"""MagCache's own, for 28 steps."""


@dataclass(frozen=True)
class Noted:
    """What one evaluation did: its step and stage, and every site that was asked about."""

    step: int
    stage: int
    decisions: dict

    @property
    def reused(self):
        return Decision.REUSE in self.decisions.values()


class TracedRun(FeatureRun):
    """Writes down every evaluation that went well."""

    def __init__(self, recipe, ledger, trace):
        super().__init__(recipe, ledger)
        self._trace = trace

    def commit(self):
        now = self._evaluation
        reused = super().commit()
        self._trace.append(Noted(now.context.step, now.context.stage, dict(now.noted)))
        return reused


@dataclass
class TracedCaches(FeatureCaches):
    """Feature caching with recipes of choice, by the name a job asks for; other names as ever.

    `traces` has a list of `Noted` for every attempt, by job.
    """

    recipes: dict[str, Recipe] = field(default_factory=dict)
    traces: dict[str, list[list[Noted]]] = field(default_factory=dict)

    def recipe(self, spec, choice, first_step):
        known = self.recipes.get(choice.policy)
        return super().recipe(spec, choice, first_step) if known is None else known

    def open(self, spec, choice, first_step, ledger):
        run, trace = super().open(spec, choice, first_step, ledger), []
        self.traces.setdefault(spec.job_id, []).append(trace)
        return TracedRun(run.recipe, ledger, trace)

    def pattern(self, job_id="a", attempt=-1):
        """What an attempt did, one digit an evaluation: 1 where everything was computed."""
        return "".join("01"[not noted.reused] for noted in self.traces[job_id][attempt])


@dataclass(frozen=True)
class Alone:
    """A job run by itself."""

    result: object
    traces: list[list[Noted]]

    @property
    def pattern(self):
        return "".join("01"[not noted.reused] for noted in self.traces[-1])


def asking(policy, strength=0.5, name="a", **changes):
    return spec(name, features=FeatureChoice(policy, strength), **changes)


def on(family, **changes):
    """Fields of a job this family can run."""
    return {"solver": family.info.solvers[0], **changes}


def plain(item):
    return replace(item, features=None)


def by_itself(family, item, **caches):
    caches = TracedCaches(family, **caches)
    loop = StepLoop(family, caches=caches)
    loop.submit(item, 0.0)
    result = finish(loop)[item.job_id]
    assert loop.stats.feature_bytes == 0
    return Alone(result, caches.traces.get(item.job_id, []))


def with_recipe(family, recipe, **changes):
    """One job with a recipe, by itself."""
    return by_itself(family, asking("own", **on(family, **changes)), recipes={"own": recipe})


def is_unet(family):
    return family.info.architecture == "unet"


def inner_sites(family):
    if is_unet(family):
        return (UNetSkip(0), UNetSkip(1), UNetSkip(2))
    return (BlockStack(), BlockStack(1, 0), BlockStack(0, 1), *map(SubLayer, family.network.backbone.kinds))


def all_sites(family):
    guidance = (Guidance(),) if family.network.pairs else ()
    return (*inner_sites(family), *guidance, Output())


def layer(site, policy, predictor=None, **settings):
    return CacheLayer(site, policy, predictor or (CFGDelta() if site == Guidance() else Reuse()), **settings)


def stacked(family, policy):
    """One layer on everything that stacks."""
    inner = UNetSkip(1) if is_unet(family) else BlockStack(1, 0)
    parts = map(SubLayer, family.network.backbone.kinds)
    outer = (Guidance(),) if family.network.pairs else ()
    return Recipe(tuple(layer(site, policy) for site in (Output(), *outer, inner, *parts)))


def channels_of(family):
    """How many channels a calibrated method's features have."""
    recipe = Recipe((layer(UNetSkip(0) if is_unet(family) else BlockStack(), Always()),))
    caches = TracedCaches(family, recipes={"own": recipe})
    loop = StepLoop(family, caches=caches)
    loop.submit(asking("own", **on(family, guidance_scale=1.0, steps=2)), 0.0)
    loop.tick()
    run = loop._active[0].features
    remembered = run.history(recipe.layers[0].site, ("conditional", 0, 0))[0].value
    return remembered.shape[0 if is_unet(family) else -1]


def shelf_of(family, folder: Path, items):
    """Write made-up artefacts that hold for some jobs, and open the shelf."""
    channels = channels_of(family)
    conditions = {(item.solver, item.steps, item.width, item.height, item.guidance_scale) for item in items}
    for number, (solver, steps, width, height, guidance) in enumerate(sorted(conditions)):
        for method, arrays in _arrays(family, steps, channels).items():
            info = family.info
            same = (info.weights_digest, info.schedule, solver, steps, width, height, guidance, info.dtype)
            path = Artefact(ArtefactKey(method, *same, CALIBRATOR, "none"), arrays).save(folder)
            path.rename(folder / f"{method}-{number}.safetensors")
    return CalibrationShelf(folder)


def _arrays(family, steps, channels):
    random = np.random.default_rng(steps)
    kinds = family.network.backbone.kinds or ("attention",)
    places = np.arange(steps, dtype=np.float32)
    size = (steps, min(steps, 8), channels)
    return {
        "teacache": {"coefficients": np.float32([0.5, 0.3, 0.0])},
        "magcache": {"ratios": np.float32([1.0] + [0.99] * (steps - 1))},
        "smoothcache": {kind: np.float32([[0.07 * lag] * steps for lag in (1, 2, 3)]) for kind in kinds},
        "cachequant": {
            "distances": np.abs(places[:, None] - places),
            "scale": np.float32(random.uniform(0.9, 1.1, size)),
            "offset": np.float32(random.uniform(-0.1, 0.1, size)),
        },
    }


def play_and_compare(family, plan: list[Arrival], *, rounded, batch=64, **caches):
    """Run jobs together and each alone: the same decisions, the same latents, the same report."""
    together = TracedCaches(family, **caches)
    loop = StepLoop(family, max_batch=batch, caches=together)
    played = play(loop, plan)
    for one in plan:
        name = one.item.job_id
        if one.cancelled is not None and name not in played.results:
            continue
        single = by_itself(family, one.item, **caches)
        joint = played.results[name]
        assert together.traces.get(name, []) == single.traces, one.item
        assert_same_report(joint.features, single.result.features)
        assert (joint.resumed, joint.skipped, joint.wasted) == (
            single.result.resumed,
            single.result.skipped,
            single.result.wasted,
        )
        assert_close(joint.image, single.result.image, rounded=rounded(one.item))
    assert loop.stats.feature_bytes == 0
    assert loop.idle
    return played, together


def assert_same_report(report, other):
    if report is None or other is None:
        assert report is other
        return
    fields = ("policy", "strength", "reason", "computed", "reused", "state_bytes")
    assert [getattr(report, name) for name in fields] == [getattr(other, name) for name in fields]
    np.testing.assert_allclose(report.compute_share, other.compute_share, rtol=1e-9)


def methods_of(family):
    """Our own methods that a family says it can run; libraries' have tests of their own."""
    return [name for name in family.info.feature_policies if name in METHODS]
