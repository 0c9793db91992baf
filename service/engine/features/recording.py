"""Runs that compute everything and show it: what calibration looks at, on the very way jobs go in the service."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from policies.features.base import BlockStack, CacheLayer, Recipe, StepContext, SubLayer, UNetSkip
from policies.features.choice import FeatureChoice
from policies.features.dynamic import AccumulatedDistance
from policies.features.predictors import Reuse
from policies.features.static import Always
from service.engine.base import JobSpec, Pipeline
from service.engine.features.caches import FeatureCaches
from service.engine.features.run import Branch, FeatureRun, Key, Ledger


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one network evaluation of one job has computed.

    Attributes:
        context: where on the schedule; also the stage of the step.
        features: at the cut (what the stack of blocks adds, or a UNet's hidden state), by branch, without batch.
        indicators: the first block's modulated input, by branch; empty where it was not asked for.
        parts: outputs of sub-layers by kind, then by branch, stage and block; empty where not asked for.
    """

    context: StepContext
    features: Mapping[Branch, Tensor]
    indicators: Mapping[Branch, Tensor]
    parts: Mapping[str, Mapping[Key, Tensor]]


class Watcher(Protocol):
    """Who is shown every evaluation, once it has gone well."""

    def see(self, job: str, evaluation: Evaluation) -> None:
        """Take note of an evaluation; its tensors are the watcher's to keep or drop.

        Args:
            job: its id.
            evaluation: those of one job come in order.
        """


def full_recipe(site: UNetSkip | BlockStack, kinds: Sequence[str] = (), *, indicator: bool = False) -> Recipe:
    """Return layers that always compute.

    Args:
        site: the cut.
        kinds: of sub-layers to show.
        indicator: whether to measure the first block's modulated input, too.
    """
    # At a threshold of 0 nothing is ever reused, and what it looks at is measured at every evaluation.
    policy = AccumulatedDistance(0.0) if indicator else Always()
    parts = tuple(CacheLayer(SubLayer(kind), Always(), Reuse()) for kind in kinds)
    return Recipe((CacheLayer(site, policy, Reuse()), *parts))


class RecordingRun(FeatureRun):
    """Feature caching of a job that remembers nothing and shows everything.

    Args:
        recipe: of layers that always compute.
        ledger: of the job.
        job: its id.
        watcher: who is shown.
    """

    def __init__(self, recipe: Recipe, ledger: Ledger, job: str, watcher: Watcher) -> None:
        super().__init__(recipe, ledger)
        self._job = job
        self._watcher = watcher

    @torch.inference_mode()
    def commit(self) -> bool:
        """Show what the evaluation has made, and let go of it."""
        now = self._evaluation
        features: dict[Branch, Tensor] = {}
        parts: dict[str, dict[Key, Tensor]] = {}
        for site, key, tensor in now.made:
            if isinstance(site, SubLayer):
                parts.setdefault(site.kind, {})[key] = tensor
            else:
                features[key[0]] = tensor
        indicators = {key[0]: tensor for _, key, tensor in now.seen}
        self._watcher.see(self._job, Evaluation(now.context, features, indicators, parts))
        now.made.clear()
        now.seen.clear()
        return super().commit()


class RecordingCaches(FeatureCaches):
    """Opens recording for every job that asks for feature caching, whatever it asks for.

    Args:
        pipeline: the loaded model.
        recipe: see `full_recipe`.
        watcher: who is shown what the jobs compute.
    """

    def __init__(self, pipeline: Pipeline, recipe: Recipe, watcher: Watcher) -> None:
        super().__init__(pipeline)
        self._full = recipe
        self._watcher = watcher

    def open(self, spec: JobSpec, choice: FeatureChoice, first_step: int, ledger: Ledger) -> FeatureRun:
        """Return the recording of one job."""
        return RecordingRun(self._full, ledger, spec.job_id, self._watcher)

    def bytes_of(self, spec: JobSpec) -> int:
        """Return 0: the run itself keeps nothing."""
        return 0
