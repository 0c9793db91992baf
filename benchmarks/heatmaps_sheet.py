"""The contact sheet of `benchmarks/heatmaps`: `python -m benchmarks.heatmaps_sheet docs/images/heatmaps.png`."""

import argparse
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.heatmaps import Case, drawn_cases, methods
from service.judges.sheet import overlaid
from training.judge import Judge
from training.judge.maps import as_input, target_of
from training.loop import JUDGE_FOLDER

COUNT = 4
SHOWN = ("smooth grad-cam++", "smooth grad-cam++, as printed", "grad-cam++", "grad-cam", "hirescam")


def draw_sheet(path: Path, count: int = COUNT) -> None:
    """Write a PNG with a row per thing: picture, true outline, and per method why it has that shape."""
    network, known = Judge.load(JUDGE_FOLDER)._network, methods()
    asked = [(case, number) for case in drawn_cases(count, seed=5) for number in range(len(case.masks))]
    size = (1.75 * (2 + len(SHOWN)), 1.95 * len(asked))
    figure, grid = plt.subplots(len(asked), 2 + len(SHOWN), figsize=size, dpi=80)
    for row, (case, number) in zip(grid, asked, strict=True):
        target = target_of({f"{'ab'[number]}.shape": case.scene.things[number].shape})
        row[0].imshow(case.picture)
        row[0].set_title(_words(case, number), fontsize=6)
        row[1].imshow(case.masks[number], cmap="gray")
        row[1].set_title("true outline", fontsize=6)
        for axis, name in zip(row[2:], SHOWN, strict=True):
            made: Any = known[name](network, as_input(case.picture), target)
            axis.imshow(overlaid(case.picture, made))
            axis.set_title(name, fontsize=6)
        for axis in row:
            axis.set_axis_off()
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _words(case: Case, number: int) -> str:
    things = [f"{thing.size} {thing.colour} {thing.shape}" for thing in case.scene.things]
    return f"why a {case.scene.things[number].shape}?\n" + ",\n".join(things)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("picture", type=Path)
    draw_sheet(parser.parse_args().picture)


if __name__ == "__main__":
    main()
