"""N* of the second shipped model, the diffusion transformer: see `n_star`."""

from typing import Any

from benchmarks.n_star import QUICK_GRID, measure
from training.loop import DIT_FOLDER

GRID = (6, 8, 10, 12, 16, 20)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer prompts and a coarser grid."""
    return measure(DIT_FOLDER, prompts=24 if quick else 120, grid=QUICK_GRID if quick else GRID, quiet=quiet)
