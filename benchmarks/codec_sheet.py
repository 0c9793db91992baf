"""The contact sheet of `benchmarks/codec`: the same pairs served from every way of keeping their sources.

`python -m benchmarks.codec_sheet docs/images/codec.png` runs a few pairs of the first model and draws them.
"""

import argparse
import textwrap
from dataclasses import dataclass
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from benchmarks.features.pictures import Picture

WIDTH = 22


@dataclass(frozen=True, slots=True)
class Row:
    """One way: its name, and a picture with a caption per pair."""

    name: str
    pictures: list[tuple[Picture, str]]


def draw_sheet(path: Path, rows: list[Row]) -> None:
    """Write a PNG with a row per way and a column per pair."""
    columns = max(len(row.pictures) for row in rows)
    figure, grid = plt.subplots(len(rows), columns, figsize=(2.0 * columns, 2.35 * len(rows)), dpi=80, squeeze=False)
    for axes, row in zip(grid, rows, strict=True):
        for axis in axes:
            axis.set_xticks([])
            axis.set_yticks([])
        for axis, (picture, text) in zip(axes, row.pictures, strict=False):
            axis.imshow(picture)
            axis.set_title("\n".join(textwrap.wrap(text, WIDTH)[:4]), fontsize=6)
        axes[0].set_ylabel(row.name, fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def main(argv: list[str] | None = None) -> None:
    """Run a few pairs and draw them."""
    from benchmarks.codec import MODELS, SHEET_PAIRS, measure  # it imports this module

    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", choices=list(MODELS), default="unet")
    parser.add_argument("--pairs", type=int, default=SHEET_PAIRS)
    parser.add_argument("--quick", action="store_true", help="one level, the shallowest, instead of the deepest")
    chosen = parser.parse_args(argv)
    measure(MODELS[chosen.model], chosen.pairs, quick=chosen.quick, quiet=False, sheet=chosen.picture)


if __name__ == "__main__":
    main()
