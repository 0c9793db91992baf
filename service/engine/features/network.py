"""A joint batch through the denoiser: guidance, and what feature caching leaves out of the forward altogether.

Classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598) is extra rows of the same forward:
uncond + g (cond - uncond). Without feature caching every row goes through the network as diffusers would send it.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from policies.features.base import CacheLayer, Decision, Guidance, Moment, Output
from policies.features.predictors import CFGDelta
from service.engine.base import Condition, Rows
from service.engine.features.backbone import Backbone, Inputs
from service.engine.features.borrowed import BackendRun
from service.engine.features.forward import has_inner_site, walk_cached
from service.engine.features.predicting import Missing, predict_missing
from service.engine.features.profile import Profile, measure
from service.engine.features.run import Branch, FeatureRun, Lane
from service.engine.placement import Placement

logger = logging.getLogger(__name__)

MakeInputs = Callable[[Tensor, Rows, Condition], Inputs]
"""Given row numbers [M] (a row may come twice), the joint batch and the conditions [M, ...] of these rows, returns
the keyword arguments of the denoiser's forward."""
# Share of the radius up to which CFG-Cache counts a frequency as low (Lv et al. 2024, arXiv 2410.19355).
LOW_BAND = 5


@dataclass
class Network:
    """A family's denoiser with its guidance and its feature caching.

    Attributes:
        denoiser: diffusers' model.
        backbone: the same, taken apart; None where feature caching does not know it.
        place: says to how many rows a forward is filled up.
        inputs: makes the denoiser's arguments.
        channels: of the output that count; what some models give beyond them is a learned variance. None = all.
        pairs: guidance takes a second row; False for models that are told the scale, or have no guidance.
    """

    denoiser: Any
    backbone: Backbone | None
    place: Placement
    inputs: MakeInputs
    channels: int | None = None
    pairs: bool = True
    _parts: tuple[Tensor, Tensor, Tensor] | None = None
    _profiles: dict[tuple[int, int], Profile] = field(default_factory=dict)

    @property
    def unguided(self) -> Tensor | None:
        """What the last output would have been without guidance, float32 [B, ...].

        None if no row had any, or not all rows were computed. Made when asked for: the loop asks at few steps.
        """
        if self._parts is None:
            return None
        guided, places, unconditional = self._parts
        plain = guided.clone()
        plain[places] = unconditional
        return plain

    def output(self, rows: Rows) -> Tensor:
        """Return the guided output of the denoiser, float32 [B, ...]."""
        self._parts = None
        runs = rows.features or (None,) * len(rows.latents)
        if any(isinstance(run, BackendRun) for run in runs):
            return self._borrowed(rows, runs)
        whole = [_wanted(run, Output) for run in runs]
        live = [row for row, decision in enumerate(whole) if decision is not Decision.REUSE]
        for row, run in enumerate(runs):
            if run is not None and row not in live:
                self._save(run, rows, 1 + (self.pairs and float(rows.guidance[row]) > 1.0))
        output = self._guided(live, rows, runs) if live else None
        return _with_remembered(output, live, runs)

    def _borrowed(self, rows: Rows, runs: Sequence[FeatureRun | None]) -> Tensor:
        """Let another library run the one row there is; where it cannot, run it as if there were none."""
        run, scale = runs[0], float(rows.guidance[0])
        if len(runs) > 1 or not isinstance(run, BackendRun):
            raise RuntimeError("a job with another library's feature caching shares a forward")
        paired = self.pairs and scale > 1.0
        # As in diffusers' own pipelines, which some methods count on.
        conditions = {
            name: torch.cat([rows.negatives[name], rows.conditions[name]]) if paired else rows.conditions[name]
            for name in rows.conditions
        }
        order = torch.zeros(1 + paired, dtype=torch.long, device=rows.latents.device)
        output = run.denoise(self.inputs(order, rows, conditions))
        if output is None:
            return self._guided([0], rows, (None,))
        output = self._cut(output)
        return output[:1] + scale * (output[1:] - output[:1]) if paired else output

    def _save(self, run: FeatureRun, rows: Rows, count: int) -> None:
        """Book network rows that are left out."""
        profile = self.profile(rows)
        run.spend(0.0, count * profile.whole if profile is not None else 0.0)

    def profile(self, rows: Rows) -> Profile | None:
        """Return what a row costs in pictures of the size of `rows`, measured once; None without a backbone."""
        if self.backbone is None:
            return None
        size = (rows.latents.shape[-1], rows.latents.shape[-2])
        if size not in self._profiles:
            order = torch.zeros(1, dtype=torch.long, device=rows.latents.device)
            conditions = {name: tensor[:1] for name, tensor in rows.conditions.items()}
            self._profiles[size] = measure(self.backbone, self.inputs(order, rows, conditions))
        return self._profiles[size]

    def _guided(self, live: list[int], rows: Rows, runs: Sequence[FeatureRun | None]) -> Tensor:
        """Run the network for some rows, with as many unconditional rows as guidance and CFG-Cache want."""
        scales = rows.guidance.tolist()
        guided = [row for row in live if self.pairs and scales[row] > 1.0]
        paired = [row for row in guided if _wanted(runs[row], Guidance) is not Decision.REUSE]
        lanes = _lanes(live, guided, paired, runs)
        output = self._run(live, paired, rows, lanes)
        conditional = output[: len(live)]
        if not guided:
            return conditional
        places = torch.tensor([live.index(row) for row in guided], device=output.device)
        unconditional = output[len(live) :]
        if any(run is not None and run.recipe.at(Guidance) for run in runs):
            unconditional = self._unconditional(guided, paired, rows, runs, conditional[places], unconditional)
        scale = rows.guidance[guided].view(-1, *[1] * (output.dim() - 1))
        conditional[places] = unconditional + scale * (conditional[places] - unconditional)
        if len(live) == len(rows.latents):
            self._parts = (conditional, places, unconditional)
        return conditional

    def _unconditional(
        self,
        guided: list[int],
        paired: list[int],
        rows: Rows,
        runs: Sequence[FeatureRun | None],
        conditional: Tensor,
        computed: Tensor,
    ) -> Tensor:
        """Return the unconditional output of all guided rows, computed or CFG-Cache's."""
        made = dict(zip(paired, computed, strict=True))
        outputs = []
        for row, beside in zip(guided, conditional, strict=True):
            run = runs[row]
            layer = None if run is None else run.recipe.at(Guidance)
            if run is None or layer is None:
                outputs.append(made[row])
                continue
            outputs.append(_guidance(run, layer, beside, made.get(row)))
            if row not in made:
                self._save(run, rows, 1)
        return torch.stack(outputs)

    def _run(self, live: list[int], paired: list[int], rows: Rows, lanes: list[Lane | None]) -> Tensor:
        device = rows.latents.device
        first, second = torch.tensor(live, device=device), torch.tensor(paired, dtype=torch.long, device=device)
        order = torch.cat([first, second])
        whole = len(live) == len(rows.latents)
        conditions = {
            name: torch.cat([tensor if whole else tensor[first], rows.negatives[name][second]])
            for name, tensor in rows.conditions.items()
        }
        if any(map(has_inner_site, lanes)):
            return self._walked(order, rows, conditions, lanes)
        for lane in lanes:
            if lane is not None and (profile := self.profile(rows)) is not None:
                lane.run.spend(profile.whole, profile.whole)
        wanted, count = self.place.rows(len(order)), len(order)
        padded = {name: filled(tensor, wanted) for name, tensor in conditions.items()}
        inputs = self.inputs(filled(order, wanted), rows, padded)
        return self._cut(self.denoiser(**inputs, return_dict=False)[0])[:count]

    def _walked(self, order: Tensor, rows: Rows, conditions: Condition, lanes: Sequence[Lane | None]) -> Tensor:
        """Run the denoiser layer by layer; that is never compiled, so nothing is gained by filling rows up."""
        profile = self.profile(rows)
        if self.backbone is None or profile is None:
            raise RuntimeError("feature caching without a backbone")
        share = rows.sigmas / (rows.alphas + rows.sigmas)
        inputs = {**self.inputs(order, rows, conditions), "noise_share": share[order]}
        return self._cut(walk_cached(self.backbone, inputs, lanes, profile))

    def _cut(self, output: Tensor) -> Tensor:
        return (output if self.channels is None else output[:, : self.channels]).float()


def _lanes(
    live: Sequence[int], guided: Sequence[int], paired: Sequence[int], runs: Sequence[FeatureRun | None]
) -> list[Lane | None]:
    """Return one lane per network row, and tell each run which of its rows there are."""
    halves: dict[int, tuple[Branch, ...]] = dict.fromkeys(live, ("conditional",))
    halves |= dict.fromkeys(paired, ("conditional", "unconditional"))
    for row in live:
        if (run := runs[row]) is not None:
            run.running(halves[row])
    first = [None if (run := runs[row]) is None else Lane(run, "conditional") for row in live]
    second = [None if (run := runs[row]) is None else Lane(run, "unconditional") for row in paired]
    return [*first, *second]


def _wanted(run: FeatureRun | None, kind: type) -> Decision | None:
    """Return what a job's layer on one kind of site decides; None if it has none."""
    layer = None if run is None else run.recipe.at(kind)
    if run is None or layer is None:
        return None
    decision = run.plan(layer)
    # Outside the network there is nothing cheaper to look at.
    decision = Decision.COMPUTE if decision is Decision.PROBE else decision
    run.note(layer.site, decision)
    return decision


def _guidance(run: FeatureRun, layer: CacheLayer, conditional: Tensor, unconditional: Tensor | None) -> Tensor:
    """Return the unconditional output [C, h, w]: the computed one, or, where there is none, CFG-Cache's.

    CFG-Cache keeps the difference of the two outputs in a low and a high band, and later adds both, weighted, to the
    conditional output. The transform is linear, so the bands are kept as pictures: only computing them takes an FFT.
    """
    key = run.key("unconditional")
    if unconditional is not None:
        run.remember(layer.site, key, _bands(unconditional - conditional))
        return unconditional
    newest = run.history(layer.site, key)[0]
    low, high = (1.0, 1.0)
    if isinstance(layer.predictor, CFGDelta):
        now = Moment(run.context.step, run.context.log_snr)
        low, high = layer.predictor.bands(now, newest.moment, run.context.steps)
    return conditional + low * newest.value[0] + high * newest.value[1]


def _bands(difference: Tensor) -> Tensor:
    """Split [C, h, w] into frequencies inside and outside a circle around zero, [2, C, h, w]."""
    height, width = difference.shape[-2:]
    down = torch.fft.fftfreq(height, device=difference.device) * height
    right = torch.fft.fftfreq(width, device=difference.device) * width
    inside = down[:, None] ** 2 + right[None, :] ** 2 <= (min(height, width) // LOW_BAND) ** 2
    low = torch.fft.ifft2(torch.fft.fft2(difference) * inside).real
    return torch.stack([low, difference - low])


def _with_remembered(output: Tensor | None, live: Sequence[int], runs: Sequence[FeatureRun | None]) -> Tensor:
    """Remember the outputs of rows that cache them, and put the others' in their places."""
    layers = [None if run is None else run.recipe.at(Output) for run in runs]
    if not any(layers) and output is not None:
        return output
    missing = []
    for row, (run, layer) in enumerate(zip(runs, layers, strict=True)):
        if run is None or layer is None:
            continue
        if row in live and output is not None:
            run.remember(layer.site, run.key("guided"), output[live.index(row)].clone())
        else:
            missing.append(Missing(run, layer, run.key("guided")))
    absent = [row for row in range(len(runs)) if row not in live]
    parts = [part for part in (output, predict_missing(missing, 1) if missing else None) if part is not None]
    order = [*live, *absent]
    return torch.cat(parts)[[order.index(row) for row in range(len(runs))]]


def filled(tensor: Tensor, wanted: int) -> Tensor:
    """Return a tensor [M, ...] with its first row repeated until there are `wanted`."""
    extra = wanted - len(tensor)
    return torch.cat([tensor, tensor[:1].expand(extra, *tensor.shape[1:])]) if extra else tensor
