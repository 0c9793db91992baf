"""What each calibrated method takes from full runs, evaluation by evaluation; no run's features are kept for long."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from policies.features import fits
from service.engine.features.backbone import relative_change
from service.engine.features.recording import Evaluation
from service.engine.features.run import Branch, Key

Arrays = dict[str, npt.NDArray[Any]]
Notes = dict[str, float]

SMOOTH_LAGS = 3
"""SmoothCache's longest skip (arXiv 2411.10510)."""
LONGEST_GROUP = 16
"""Of CacheQuant's groups at the highest strength: twice 8 steps (`layers.cachequant`)."""


class Recorder(ABC):
    """Takes in the evaluations of all jobs, which may come interleaved, and fits one method to them."""

    @abstractmethod
    def see(self, job: str, at: Evaluation) -> None:
        """Take in one evaluation; those of one job come in order."""

    @abstractmethod
    def fitted(self) -> tuple[Arrays, Notes]:
        """Return the arrays of the artefact, and numbers about the fit.

        Raises:
            ValueError: nothing can be fitted to what was seen.
        """


class TeaCacheRecorder(Recorder):
    """How far the modulated input and what the blocks add move from one evaluation to the next.

    As "output" we take what is reused, the stack's residual, since its change is the error of reusing it. Of a guided
    pair the larger change counts, of the input as of the output: so `AccumulatedDistance` is asked, and its answer
    binds both rows. The last step is left out: it is always computed, so that the polynomial is never asked there.
    """

    def __init__(self) -> None:
        self._before: dict[str, Evaluation] = {}
        self._inputs: list[float] = []
        self._outputs: list[float] = []

    def see(self, job: str, at: Evaluation) -> None:
        """Compare with the evaluation before."""
        before = self._before.pop(job, None)
        if at.context.last:
            return
        if before is not None:
            self._inputs.append(_furthest(at.indicators, before.indicators))
            self._outputs.append(_furthest(at.features, before.features))
        self._before[job] = at

    def fitted(self) -> tuple[Arrays, Notes]:
        """Return TeaCache's polynomial."""
        coefficients, r_squared = fits.fit_polynomial(np.array(self._inputs), np.array(self._outputs))
        notes = {"r_squared": r_squared, "pairs": float(len(self._inputs)), "furthest": max(self._inputs)}
        return {"coefficients": np.array(coefficients)}, notes


class MagCacheRecorder(Recorder):
    """Norms of what the blocks add to each token; both halves of a guided pair count as samples."""

    def __init__(self) -> None:
        self._norms: dict[tuple[str, Branch], list[npt.NDArray[np.float32]]] = {}

    def see(self, job: str, at: Evaluation) -> None:
        """Take the norms."""
        for branch, feature in at.features.items():
            norms = torch.linalg.vector_norm(feature.float(), dim=-1).cpu().numpy()
            self._norms.setdefault((job, branch), []).append(norms)

    def fitted(self) -> tuple[Arrays, Notes]:
        """Return MagCache's ratios; "spread" is how far runs differ in them, as standard deviation."""
        norms = np.array(list(self._norms.values()), dtype=np.float64)
        ratios = fits.magnitude_ratios(norms)
        spread = float((norms[:, 1:] / norms[:, :-1]).mean(axis=2).std(axis=0).mean())
        return {"ratios": np.array(ratios)}, {"spread": spread}


class SmoothCacheRecorder(Recorder):
    """What skipping up to three steps costs every sub-layer, averaged over those of a kind, branches and runs."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._past: dict[str, dict[tuple[str, Key], deque[Tensor]]] = {}
        self._sums: dict[str, fits.Floats] = {}
        self._counts: dict[str, fits.Floats] = {}

    def see(self, job: str, at: Evaluation) -> None:
        """Compare every sub-layer's output with its last few."""
        past, places, changes = self._past.setdefault(job, {}), [], []
        for kind, values in at.parts.items():
            for key, value in values.items():
                kept = past.setdefault((kind, key), deque(maxlen=SMOOTH_LAGS))
                for lag, before in enumerate(kept, 1):
                    places.append((kind, lag))
                    changes.append(relative_change(before[None], value[None]))
                kept.appendleft(value)
        if changes:
            for (kind, lag), change in zip(places, torch.cat(changes).tolist(), strict=True):
                self._add(kind, lag, at.context.step - lag, change)
        if at.context.last:
            del self._past[job]

    def _add(self, kind: str, lag: int, step: int, change: float) -> None:
        for totals, more in ((self._sums, change), (self._counts, 1.0)):
            totals.setdefault(kind, np.zeros((SMOOTH_LAGS, self._steps)))[lag - 1, step] += more

    def fitted(self) -> tuple[Arrays, Notes]:
        """Return SmoothCache's errors (`fits.skip_errors`), and the mean of those of one step."""
        errors = {kind: sums / np.maximum(self._counts[kind], 1.0) for kind, sums in self._sums.items()}
        if not errors:
            raise ValueError("no sub-layer was seen twice")
        notes = {f"mean_error {kind}": float(table[0, :-1].mean()) for kind, table in errors.items()}
        return {kind: table.astype(np.float32) for kind, table in errors.items()}, notes


class CacheQuantRecorder(Recorder):
    """How far features of every two steps are apart, and moments per channel of those that may share a group.

    Both halves of a guided pair count as samples: a correction is one for both.

    Args:
        steps: N.
        channel_axis: of a feature without batch.
    """

    def __init__(self, steps: int, channel_axis: int) -> None:
        self._axis = channel_axis
        self._lags = min(LONGEST_GROUP, steps) - 1
        self._past: dict[tuple[str, Branch], list[Tensor]] = {}
        self._runs = 0
        self._distances = np.zeros((steps, steps))
        self._moments = fits.LagMoments(steps, self._lags)
        self._means: dict[tuple[str, Branch], list[Tensor]] = {}
        self._sums: dict[tuple[str, Branch], tuple[fits.Floats, fits.Floats]] = {}

    def see(self, job: str, at: Evaluation) -> None:
        """Compare with all earlier features of the run."""
        for branch, feature in at.features.items():
            self._compare((job, branch), at.context.step, feature.movedim(self._axis, -1).flatten(0, -2))
            if at.context.last:
                self._finish((job, branch))

    def _compare(self, run: tuple[str, Branch], step: int, feature: Tensor) -> None:
        past, means = self._past.setdefault(run, []), self._means.setdefault(run, [])
        now = feature.float()
        mean = now.mean(0)
        centred = now - mean
        if past:
            apart = torch.stack([(now - old.float()).abs().mean() for old in past]).tolist()
            self._distances[step, :step] += apart
            self._distances[:step, step] += apart
        past.append(feature)
        means.append(mean)
        recent = list(zip(reversed(past), reversed(means), strict=True))[: self._lags + 1]
        # Squares about the mean, and products with the features before.
        products = torch.stack([(centred * (old.float() - own)).sum(0) for old, own in recent]).cpu().double().numpy()
        steps, channels = len(self._distances), len(mean)
        if run not in self._sums:
            self._sums[run] = (np.zeros((steps, channels)), np.zeros((steps, self._lags, channels)))
        variance, covariance = self._sums[run]
        variance[step] = products[0]
        for lag, product in enumerate(products[1:], 1):
            covariance[step - lag, lag - 1] = product

    def _finish(self, run: tuple[str, Branch]) -> None:
        count = len(self._past.pop(run)[0])
        means = torch.stack(self._means.pop(run)).cpu().double().numpy()
        self._moments.add(count, means, *self._sums.pop(run))
        self._runs += 1

    def fitted(self) -> tuple[Arrays, Notes]:
        """Return CacheQuant's distances and corrections, these as float16 where they fit."""
        distances = self._distances / max(self._runs, 1)
        with np.errstate(over="ignore", invalid="ignore"):
            scale, offset = self._moments.fit(np.float16)
        if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
            scale, offset = self._moments.fit(np.float32)
        arrays = {"distances": distances.astype(np.float32), "scale": scale, "offset": offset}
        return arrays, {"r_squared": self._moments.explained()}


def _furthest(now: Mapping[Branch, Tensor], before: Mapping[Branch, Tensor]) -> float:
    pairs = [relative_change(tensor[None], before[branch][None]) for branch, tensor in now.items()]
    return float(torch.cat(pairs).max())
