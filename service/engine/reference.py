"""A given picture to begin from: encoded, noised to the level of the step a job enters at, perhaps kept in part.

Image-to-image is a resume: SDEdit (Meng et al. 2021, arXiv 2108.01073) noises the picture to where the last so many
steps begin, and the loop goes on from there as from any noise state.
"""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d

from service.engine.levels import Level
from service.engine.stopwatch import Stopwatch

if TYPE_CHECKING:
    from service.engine.base import JobSpec, Pipeline

# Clean latents of pictures kept; a request of many pictures needs one of them.
MOST_CANVASES = 8


@dataclass(frozen=True, slots=True)
class Reference:
    """A picture to begin from, of the size to be drawn. What it is equal to goes by its digest.

    Attributes:
        image: uint8 [H, W, 3].
        strength: share of the steps that are run on it, in (0, 1]: 1 leaves next to nothing of it.
        digest: SHA-256 of picture and mask, hex.
        mask: bool [H, W], true where the picture is to be drawn anew, the rest is kept; None = everywhere.
    """

    image: NDArray[np.uint8] = field(repr=False, compare=False)
    strength: float
    digest: str
    mask: NDArray[np.bool_] | None = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """What parts the noise states of runs that began from it, with this strength, from all others."""
        return f"{self.digest}:{self.strength.hex()}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.shape[1], self.image.shape[0]

    def begin(self, steps: int) -> int:
        """Return the step of N that a run begins at: the last round(strength * N) are run, one at least."""
        return steps - max(1, round(self.strength * steps))

    def kept(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a drawn picture with the pixels that are kept as they are in this one."""
        return image if self.mask is None else np.where(self.mask[..., None], image, self.image)


@dataclass(frozen=True, slots=True)
class Canvas:
    """A reference inside the engine.

    Attributes:
        latent: clean latent of the picture, float32 [C, h, w].
        mask: 1 in cells that are drawn anew, 0 in those that are kept, float32 [1, h, w]; None = all are drawn.
    """

    latent: Tensor
    mask: Tensor | None

    @classmethod
    def of(cls, reference: Reference, pipeline: "Pipeline") -> Self:
        """Encode a picture. A cell with any pixel to be drawn anew is drawn anew."""
        latent = pipeline.encode_picture(reference.image)
        if reference.mask is None:
            return cls(latent, None)
        wanted = torch.from_numpy(reference.mask).float()[None]
        cells: Tensor = adaptive_max_pool2d(wanted, tuple(latent.shape[-2:]))
        return cls(latent, cells.to(latent.device))

    def noised(self, level: Level, noise: Tensor) -> Tensor:
        """Return the noise state of the picture at a level, float32 [C, h, w]."""
        return level.alpha * self.latent + level.sigma * noise

    def with_kept(self, denoised: Tensor) -> Tensor:
        """Return a prediction of the clean latent [C, h, w] with the kept cells as they are in the picture.

        Every solver here is linear in its predictions, so what is kept passes through the very states that noising
        the picture anew after every step would give, with the run's own noise, whatever the solver remembers.
        """
        return denoised if self.mask is None else self.mask * denoised + (1 - self.mask) * self.latent


class Easel:
    """Encodes pictures to draw over, and keeps the last ones: all of a request begin from the same.

    A tenant has its own, or the time an edit takes would tell what others have sent.

    Args:
        pipeline: the loaded model.
    """

    def __init__(self, pipeline: "Pipeline") -> None:
        self._pipeline = pipeline
        self._kept: OrderedDict[tuple[str, str], Canvas] = OrderedDict()

    def canvas(self, spec: "JobSpec", on: Tensor) -> tuple[Canvas | None, float]:
        """Return what a job is drawn over, None = nothing, and the device seconds that encoding it took.

        Args:
            spec: the job.
            on: a tensor of the device.
        """
        if spec.reference is None:
            return None, 0.0
        name = (spec.tenant, spec.reference.digest)
        if name in self._kept:
            self._kept.move_to_end(name)
            return self._kept[name], 0.0
        with Stopwatch(on) as watch:
            canvas = self._kept[name] = Canvas.of(spec.reference, self._pipeline)
        if len(self._kept) > MOST_CANVASES:
            self._kept.popitem(last=False)
        return canvas, watch.seconds
