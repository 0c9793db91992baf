"""The prompts that feature caching is calibrated on: `python -m training.features` writes them beside both models.

They describe scenes of the training split; evaluations and benchmarks start from scenes kept out of training. An
edit of one, or another draw from the training split, may still meet one of these: a seed of their own makes it rare.
"""

import numpy as np

from training.loop import DIT_FOLDER, UNET_FOLDER
from training.scenes import caption, sample_scene

SEED = 3001
COUNT = 64


def calibration_prompts() -> list[str]:
    """Return the prompts; the same ones in every call."""
    rng = np.random.default_rng(SEED)
    return [caption(sample_scene(rng, "train"), rng).text for _ in range(COUNT)]


def main() -> None:
    """Write both files."""
    for folder in (UNET_FOLDER, DIT_FOLDER):
        path = folder / "features" / "prompts.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(calibration_prompts()) + "\n")


if __name__ == "__main__":
    main()
