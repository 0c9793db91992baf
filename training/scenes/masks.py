"""Where the things of a drawn scene truly are, pixel by pixel."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt

from training.scenes import drawing
from training.scenes.backgrounds import PAINTERS
from training.scenes.shapes import SDFS
from training.scenes.spec import Scene


def thing_masks(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Tell which pixels each thing covers in the picture `drawing.render` makes of the same arguments.

    Shadows do not count; where things overlap, the later one, which is drawn above, has the pixel.

    Args:
        scene: what is drawn.
        rng: in the state `render` is given; it is left in the state `render` leaves.

    Returns:
        bool [things, 128, 128].
    """
    # What draws from the generator must draw in `render`'s order; the background's pixels are of no use here.
    PAINTERS[scene.background](rng)
    centres = drawing._places(scene, rng.uniform(-3, 3, (2, 2)))
    masks = []
    for thing, centre in zip(scene.things, centres, strict=True):
        radius, angle = drawing._pose(thing, rng)
        masks.append(SDFS[thing.shape](*drawing._local(centre, radius, angle)) <= 0)
    for below, above in pairwise(masks):
        below &= ~above
    return np.stack(masks)
