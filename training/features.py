"""The prompts that feature caching is calibrated on: `python -m training.features` writes them beside both models.

They describe scenes of the training split, so that no evaluation or benchmark, all of which draw scenes kept out of
training, can have one of them; a seed of their own keeps them apart from other prompts of that split.
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
