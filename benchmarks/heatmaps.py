"""Do heat maps of the scenes' judge lie on the things they should? Held against the true outlines.

Drawn held-out scenes; for every attribute of a thing the judge has right, a map of why, by each method. Energy: share
of the map inside the thing's outline. Pointing game (Zhang et al. 2016, arXiv 1608.00507): whether the map's highest
pixel is inside. Scenes of one and of two things apart. Sanity check (Adebayo et al. 2018, arXiv 1810.03292): how
much a map still resembles itself when the network's weights are random.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.facts import mean_interval
from service.judges.heatmap import (
    PLUS_PLUS,
    Heatmap,
    Smoothing,
    Target,
    grad_cam,
    hires_cam,
    smooth_grad_cam_pp,
    stretched,
)
from service.probe.smoothness import rank_correlation
from training.judge import Judge
from training.judge.maps import as_input, explained_layer, target_of
from training.judge.network import JudgeNetwork
from training.loop import JUDGE_FOLDER
from training.scenes import Scene, render, sample_scene
from training.scenes.masks import thing_masks
from training.scenes.spec import THING_ATTRIBUTES

SEED = 20_240
SCENES, QUICK_SCENES = 40, 12
SANE_SCENES, QUICK_SANE_SCENES = 10, 4
SIDE = 128
CELLS = 16
FOUND = 0.5
SMOOTHING = Smoothing(samples=8, sigma=0.1)
BASELINES = ("centre", "random")
RANDOMISED = ("heads", "heads and hidden layer", "everything")
Mask = NDArray[np.bool_]
Method = Callable[[JudgeNetwork, Tensor, Target], Heatmap]


@dataclass(frozen=True, slots=True)
class Case:
    """A drawn scene, and where its things truly are.

    Attributes:
        scene: what was drawn.
        picture: uint8 [128, 128, 3].
        masks: bool [things, 128, 128].
    """

    scene: Scene
    picture: NDArray[np.uint8]
    masks: Mask

    @property
    def group(self) -> str:
        """Scenes of one and of two things are reported apart."""
        return "one thing" if len(self.masks) == 1 else "two things"


def methods() -> dict[str, Method]:
    """Return every method by name: maps of the judge's network, and what they have to beat."""

    def smooth(how: Smoothing) -> Method:
        return lambda network, picture, target: smooth_grad_cam_pp(
            network, explained_layer(network), picture, target, how
        )

    return {
        "smooth grad-cam++": smooth(SMOOTHING),
        "smooth grad-cam++, exp": smooth(replace(SMOOTHING, exponential=True)),
        "smooth grad-cam++, as printed": smooth(replace(SMOOTHING, form="printed")),
        "grad-cam++": smooth(PLUS_PLUS),
        "grad-cam": lambda network, picture, target: grad_cam(network, explained_layer(network), picture, target),
        "hirescam": lambda network, picture, target: hires_cam(network, explained_layer(network), picture, target),
        "centre": lambda *_: centre_prior(),
        "random": lambda _, picture, __: random_map(picture),
    }


def centre_prior() -> Heatmap:
    """Return a Gaussian in the middle, of a quarter of the picture's side: what knows nothing of the picture."""
    places = (np.arange(SIDE) + 0.5) / SIDE - 0.5
    bell = np.exp(-((places / 0.25) ** 2) / 2)
    return np.outer(bell, bell).astype(np.float32)


def random_map(picture: Tensor) -> Heatmap:
    """Return uniform noise of as many cells as the explained layer has, the same for the same picture."""
    generator = torch.Generator().manual_seed(int(picture.sum() * 1000))
    return stretched(torch.rand((CELLS, CELLS), generator=generator), (SIDE, SIDE))


def drawn_cases(count: int, seed: int = SEED) -> Iterator[Case]:
    """Draw held-out scenes, as many with one thing as with two."""
    rng = np.random.default_rng(seed)
    wanted = {1: (count + 1) // 2, 2: count // 2}
    while any(wanted.values()):
        scene = sample_scene(rng, "heldout")
        drawing = int(rng.integers(2**31))
        if not wanted[len(scene.things)]:
            continue
        wanted[len(scene.things)] -= 1
        picture = render(scene, np.random.default_rng(drawing))
        yield Case(scene, picture, thing_masks(scene, np.random.default_rng(drawing)))


def energy(heatmap: Heatmap, mask: Mask) -> float:
    """Return the share of a map [H, W] inside a mask; 0 for an empty map."""
    total = float(heatmap.sum())
    return float(heatmap[mask].sum()) / total if total > 0 else 0.0


def points_inside(heatmap: Heatmap, mask: Mask) -> float:
    """Return 1 if the map's highest pixel is inside, else 0; an empty map points nowhere."""
    return float(heatmap.max() > 0 and mask.flat[int(heatmap.argmax())])


def single_attributes(case: Case, seen: dict[str, str]) -> list[tuple[str, Target, int]]:
    """Return attribute, target and the thing's number, for what the judge has right of the case's things."""
    wanted = case.scene.attributes()
    names = [(f"{thing}.{kind}", number) for number, thing in enumerate("ab") for kind in THING_ATTRIBUTES]
    right = [(name, number) for name, number in names if name in wanted and seen[name] == wanted[name]]
    return [(name, target_of({name: wanted[name]}), number) for name, number in right]


class Tally:
    """Figures per group, method and kind; a scene's attributes are averaged first, since they are not independent."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str, str], list[float]] = {}

    def add(self, group: str, method: str, figures: dict[str, list[float]]) -> None:
        """Take one scene's values by kind."""
        for kind, values in figures.items():
            if values:
                self._values.setdefault((group, method, kind), []).append(float(np.mean(values)))

    def intervals(self) -> dict[str, Any]:
        """Return group -> method -> kind -> mean over scenes with its 95 % interval."""
        found: dict[str, Any] = {}
        for (group, method, kind), values in self._values.items():
            found.setdefault(group, {}).setdefault(method, {})[kind] = mean_interval(values)
        return found

    def difference(self, group: str, kind: str, first: str, second: str) -> dict[str, float]:
        """Return the mean difference of two methods over the same scenes, with its 95 % interval."""
        pair = [np.array(self._values[group, method, kind]) for method in (first, second)]
        return mean_interval(pair[0] - pair[1])


def measure_case(network: JudgeNetwork, case: Case, seen: dict[str, str], method: Method) -> dict[str, list[float]]:
    """Return energy, pointing and, for two things, the energy on the other thing, per attribute; and both at once.

    "both: found" (each thing holds a pixel above half the map's height) is a weak demand: random cells meet it, too.
    """
    figures: dict[str, list[float]] = {}

    def note(kind: str, value: float) -> None:
        figures.setdefault(kind, []).append(value)

    picture = as_input(case.picture)
    for name, target, number in single_attributes(case, seen):
        made, mask = method(network, picture, target), case.masks[number]
        note("energy", energy(made, mask))
        note("pointing", points_inside(made, mask))
        note(f"energy {name.partition('.')[2]}", energy(made, mask))
        if len(case.masks) == 2:
            note("energy on the other", energy(made, case.masks[1 - number]))
    if len(case.masks) == 2:
        wanted = case.scene.attributes()
        both = method(network, picture, target_of({name: wanted[name] for name in ("a.shape", "b.shape")}))
        note("both: energy", energy(both, np.asarray(case.masks.any(axis=0))))
        note("both: found", float(all(both[mask].max() > FOUND for mask in case.masks)))
    return figures


def randomised(network: JudgeNetwork, share: str, seed: int = 0) -> JudgeNetwork:
    """Return a copy with fresh weights in its heads, the layer before them too, or everywhere."""
    copied = copy.deepcopy(network)
    parts: dict[str, list[nn.Module]] = {
        "heads": [copied.heads],
        "heads and hidden layer": [copied.heads, copied.hidden],
        "everything": [copied],
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for part in parts[share]:
            for module in part.modules():
                if isinstance(module, nn.Linear | nn.Conv2d):
                    module.reset_parameters()
    return copied


def rank_agreement(first: Heatmap, second: Heatmap) -> float:
    """Return Spearman's rank correlation of two maps, at the explained layer's cells; NaN where one is flat."""
    step = SIDE // CELLS
    small = [made[step // 2 :: step, step // 2 :: step].ravel() for made in (first, second)]
    return rank_correlation(small[0], small[1])


def sanity(network: JudgeNetwork, cases: list[Case], method: Method) -> dict[str, dict[str, float]]:
    """Return how far maps of a.shape agree with those of networks with random weights."""
    found = {}
    for share in RANDOMISED:
        other = randomised(network, share)
        agreements = []
        for case in cases:
            target = target_of({"a.shape": case.scene.things[0].shape})
            picture = as_input(case.picture)
            agreements.append(rank_agreement(method(network, picture, target), method(other, picture, target)))
        found[share] = mean_interval([value for value in agreements if np.isfinite(value)])
    return found


def milliseconds(network: JudgeNetwork, cases: list[Case], method: Method) -> float:
    """Return the median wall time of a map."""
    spent = []
    for case in cases:
        target, picture = target_of({"a.shape": case.scene.things[0].shape}), as_input(case.picture)
        started = time.perf_counter()
        method(network, picture, target)
        spent.append(1000 * (time.perf_counter() - started))
    return float(np.median(spent))


def run(quick: bool = False, quiet: bool = False) -> dict[str, Any]:
    """Measure every method.

    Args:
        quick: few scenes.
        quiet: no progress lines.
    """
    judge = Judge.load(JUDGE_FOLDER)
    network = judge._network
    cases = list(drawn_cases(QUICK_SCENES if quick else SCENES))
    seen = judge.attributes(torch.stack([as_input(case.picture) for case in cases]))
    some = cases[: QUICK_SANE_SCENES if quick else SANE_SCENES]
    tally, known = Tally(), methods()
    report: dict[str, Any] = {"randomised": {}, "milliseconds": {}}
    for name, method in known.items():
        for case, found in zip(cases, seen, strict=True):
            tally.add(case.group, name, measure_case(network, case, found, method))
        if name not in BASELINES:
            report["randomised"][name] = sanity(network, some, method)
        report["milliseconds"][name] = milliseconds(network, some, method)
        if not quiet:
            print(f"{name}: done", flush=True)
    for case in cases:
        tally.add(case.group, "area", {"energy": [float(mask.mean()) for mask in case.masks]})
    return report | {
        "headline": _headline(tally, report),
        "groups": tally.intervals(),
        "scenes": len(cases),
        "settings": {"samples": SMOOTHING.samples, "sigma": SMOOTHING.sigma, "cells": CELLS},
    }


def _headline(tally: Tally, report: dict[str, Any]) -> dict[str, Any]:
    groups, found = tally.intervals(), {}
    for name in ("smooth grad-cam++", "grad-cam", "hirescam"):
        one, two = groups["one thing"][name], groups["two things"][name]
        found[name] = {
            "energy_one": one["energy"]["value"],
            "energy_two": two["energy"]["value"],
            "energy_other": two["energy on the other"]["value"],
            "pointing_one": one["pointing"]["value"],
            "pointing_two": two["pointing"]["value"],
            "same_with_random_heads": report["randomised"][name]["heads"]["value"],
        }
    return found
