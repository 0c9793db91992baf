"""What a calibration shows: a strip of pictures per pair, a sheet of telling strips, a plot of the bound."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from policies.matching.table import ThresholdTable
from service.calibrate.matching.fit import Bound, excess, upper_limit
from service.calibrate.matching.forms_fit import FormReport
from service.calibrate.matching.trials import Block, Trial

SIDE = 96
ROWS = 12
_GREEN, _RED, _GREY = (34, 150, 70), (200, 40, 40), (150, 150, 150)
_BAR, _TEXT, _HEAD = 5, 30, 16


class Strips:
    """One picture file per pair: source, full run, and the hits of all levels, side by side."""

    def __init__(self, folder: Path) -> None:
        """Keep strips in `folder`, made if need be."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder

    def keep(self, block: Block) -> None:
        """Write the strips of a block."""
        for row, (number, _, _) in enumerate(block.pairs):
            shown = [block.sources[row], block.fulls[row], *(hits[row] for hits in block.hits)]
            tiles = [Image.fromarray(result.image).resize((SIDE, SIDE)) for result in shown]
            Image.fromarray(np.hstack([np.asarray(tile) for tile in tiles])).save(self._path(number))

    def read(self, number: int) -> NDArray[np.uint8] | None:
        """Return a pair's strip [SIDE, n * SIDE, 3], or None."""
        path = self._path(number)
        return np.asarray(Image.open(path).convert("RGB")) if path.is_file() else None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.png"


def contact_sheet(
    strips: Strips, trials: Sequence[Trial], prompts: Sequence[tuple[str, str]], table: ThresholdTable, bound: Bound
) -> Image.Image | None:
    """Draw the pairs around the table's bound, the most alike first.

    Under each hit a bar: green = served and fine, red = served and bad, grey = not served.

    Args:
        strips: the pictures.
        trials: of all pairs.
        prompts: source and target of each pair, by its number.
        table: what was fitted.
        bound: says what is bad.

    Returns:
        The sheet; None where no strips are left.
    """
    by_pair: dict[int, list[Trial]] = {}
    for trial in trials:
        by_pair.setdefault(trial.pair, []).append(trial)
    shown = [(number, strip) for number in _telling(by_pair, table) if (strip := strips.read(number)) is not None]
    if not shown:
        return None
    height = SIDE + _BAR + _TEXT
    sheet = Image.new("RGB", (shown[0][1].shape[1], _HEAD + height * len(shown)), "white")
    draw = ImageDraw.Draw(sheet)
    levels = sorted(trial.skip for trial in by_pair[shown[0][0]])
    for column, head in enumerate(("source", "full run", *(f"hit, {level:.1%}" for level in levels))):
        draw.text((column * SIDE + 2, 2), head, fill="black")
    for row, (number, strip) in enumerate(shown):
        top = _HEAD + row * height
        sheet.paste(Image.fromarray(strip), (0, top + _TEXT))
        early = by_pair[number][0].early
        source, target = prompts[number]
        draw.text((2, top + 1), _drawable(source), fill="grey")
        draw.text((2, top + 14), _drawable(f"{early:.2f}: {target}"), fill="black")
        for column, trial in enumerate(sorted(by_pair[number], key=lambda one: one.skip), start=2):
            box = (column * SIDE, top + _TEXT + SIDE, (column + 1) * SIDE - 1, top + _TEXT + SIDE + _BAR - 1)
            draw.rectangle(box, fill=_colour(trial, table, bound))
    return sheet


def _drawable(text: str) -> str:
    """What the built-in font can show of a prompt, in one line."""
    return text.encode("latin-1", "replace").decode("latin-1").replace("\n", " ")[:100]


def _telling(by_pair: dict[int, list[Trial]], table: ThresholdTable) -> list[int]:
    """The pairs nearest to the laxest bound, in order of divergence."""
    limit = max((row.max_divergence for row in table.rows), default=0.0)
    differing = [n for n, one in by_pair.items() if not one[0].repeat and math.isfinite(one[0].early)]
    near = sorted(differing, key=lambda number: abs(by_pair[number][0].early - limit))[:ROWS]
    return sorted(near, key=lambda number: by_pair[number][0].early)


def _colour(trial: Trial, table: ThresholdTable, bound: Bound) -> tuple[int, int, int]:
    rows = [row for row in table.rows if abs(row.skip - trial.skip) < 1e-6]
    served = [r for r in rows if trial.early <= r.max_divergence and trial.similarity >= r.min_similarity]
    if not served:
        return _GREY
    return _RED if excess([trial], bound.visible)[0] > 0 else _GREEN


def plot(trials: Sequence[Trial], table: ThresholdTable, bound: Bound, path: Path) -> None:
    """Draw, per level, the rate of bad hits among the most alike pairs, and of the upper confidence limit.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    levels = sorted({trial.skip for trial in trials if math.isfinite(trial.early)})
    figure = Figure(figsize=(3.2 * len(levels), 3.2), layout="constrained")
    axes = figure.subplots(1, len(levels), squeeze=False, sharey=True)[0]
    limits = {row.skip: row.max_divergence for row in table.rows}
    for axis, skip in zip(axes, levels, strict=True):
        ordered = sorted((t for t in trials if t.skip == skip and not t.repeat), key=lambda t: t.early)
        found = excess(ordered, bound.visible)
        counts = range(5, len(ordered) + 1)
        x = [ordered[count - 1].early for count in counts]
        axis.plot(x, [found[:count].mean() for count in counts], label="bad-hit rate")
        axis.plot(x, [upper_limit(found[:count], bound.confidence) for count in counts], label="upper limit", lw=1)
        axis.axhline(bound.rate, color="tab:red", lw=1)
        if skip in limits:
            axis.axvline(limits[skip], color="tab:green", lw=1, label="served up to here")
        axis.set(title=f"{skip:.1%} skipped", xlabel="divergence where it is judged", ylim=(-0.2, 0.4))
    axes[0].set_ylabel("bad-hit rate of all up to here")
    axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=110)


def plot_forms(report: FormReport, bound: Bound, path: Path) -> None:
    """Draw, per way to make states and over the levels, its bad-hit rate, what the gate lets through, and distances.

    The first panel holds every way to the pairs that the gate lets through at the true states, with the upper limit.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    rates, gates, distances = figure.subplots(1, 3)
    for name, levels in report.ways.items():
        inside = [level for level in levels if level.within.hits]
        x = [100 * level.skip for level in inside]
        # Near 1 the limit, pulled in by the two hits added, may lie below the rate.
        above = [max(0.0, level.within.upper - level.within.rate) for level in inside]
        rates.errorbar(x, [level.within.rate for level in inside], [[0.0] * len(x), above], label=name, capsize=3)
        gates.plot(x, [level.kept or 0.0 for level in inside], marker="o")
        distances.plot([100 * level.skip for level in levels], [level.every.distance for level in levels], marker="o")
    rates.axhline(bound.rate, color="tab:red", lw=1)
    rates.set(title="pairs the table serves", ylabel="bad-hit rate, upper limit")
    gates.set(title="the gate lets through", ylabel="share of the true states' hits", ylim=(-0.05, 1.05))
    distances.set(title="RMS distance to the true state's picture", ylabel="share of the pixels' range")
    for axis in (rates, gates, distances):
        axis.set_xlabel("% of the steps skipped")
    rates.legend(fontsize="small")
    figure.savefig(path, dpi=110)
