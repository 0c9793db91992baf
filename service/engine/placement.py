"""Where a model runs and how: what loading decides once, for every family alike."""

from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from service.engine.base import EngineStartError
from service.engine.lora import NO_LORAS, LoraShelf
from service.engine.quantise import Quantise, quantise_blocks

TILED_SIDE = 1536
# Sizes of pictures times buckets times LoRA sets that may be compiled.
PROGRAMS = 128


@dataclass(frozen=True, slots=True)
class Placement:
    """How to load a model.

    Attributes:
        device: where the networks run.
        dtype: what they compute in; latents and solvers stay float32.
        shelf: where LoRAs lie.
        compiled: whether the denoiser goes through torch.compile, one program per `bucket` of rows.
        tiled_side: pictures with a longer side, in pixels, are decoded in overlapping tiles.
        quantise: "int8" to keep the denoiser's weights as integers.
        vae_lock: held while the VAE, of which several threads may ask something, is told whether to work in tiles.
    """

    device: torch.device
    dtype: torch.dtype
    shelf: LoraShelf = NO_LORAS
    compiled: bool = False
    tiled_side: int = TILED_SIDE
    quantise: Quantise = "none"
    vae_lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    @property
    def number_type(self) -> str:
        """What tells this model's pictures from those of the same weights in other numbers, for `ModelInfo.dtype`."""
        name = str(self.dtype).removeprefix("torch.")
        return name if self.quantise == "none" else f"{name}+{self.quantise}"

    @property
    def takes_loras(self) -> bool:
        """Whether the networks have weights of the kind a LoRA is put beside."""
        return self.quantise == "none"

    def shrink(self, denoiser: Any) -> Any:
        """Return the loaded denoiser, quantised in place if wanted: before it moves, so the device never holds more.

        Raises:
            EngineStartError: it has no layers that could be quantised.
        """
        if self.quantise != "none" and not quantise_blocks(denoiser, self.dtype):
            raise EngineStartError(f"{type(denoiser).__name__} has no layers that could be quantised")
        return denoiser

    def prepare(self, denoiser: Any, vae: Any) -> None:
        """Lay out and compile the loaded networks, in place.

        Convolutions run faster on tensor cores with channels last; transformers have none to speak of.
        """
        if self.device.type == "cuda":
            vae.to(memory_format=torch.channels_last)
            if any(isinstance(part, torch.nn.Conv2d) and part.kernel_size != (1, 1) for part in denoiser.modules()):
                denoiser.to(memory_format=torch.channels_last)
        if self.compiled:
            # Beyond torch's own limit of 8 programs it would go on uncompiled, without a word.
            torch._dynamo.config.recompile_limit = PROGRAMS
            denoiser.compile(dynamic=False)

    def rows(self, count: int) -> int:
        """Return how many rows the denoiser is given for `count` of them: more where that saves compiling."""
        return bucket(count) if self.compiled else count

    def decode(self, vae: Any, latents: Tensor, scale: int) -> Tensor:
        """Run diffusers' VAE decoder, in tiles or not: always the same for pictures of one size.

        Args:
            vae: the decoder's model.
            latents: as it takes them, [B, C, h, w].
            scale: pixels a side of a latent cell stands for.

        Returns:
            Pictures in [-1, 1], [B, 3, h * scale, w * scale].
        """
        with self.vae_lock:
            vae.use_tiling = max(latents.shape[-2:]) * scale > self.tiled_side
            pictures: Tensor = vae.decode(latents, return_dict=False)[0]
        return pictures

    def encode(self, vae: Any, picture: Tensor) -> Tensor:
        """Run diffusers' VAE encoder, in tiles or not: always the same for pictures of one size.

        Args:
            vae: the encoder's model.
            picture: in [-1, 1], [1, 3, H, W].

        Returns:
            The mean of the latents, unscaled, float32 [1, C, h, w].
        """
        with self.vae_lock:
            vae.use_tiling = max(picture.shape[-2:]) > self.tiled_side
            latents: Tensor = vae.encode(picture.to(vae.dtype), return_dict=False)[0].mode()
        return latents.float()


def bucket(count: int) -> int:
    """Return the next power of two: so few sizes of batches are ever compiled."""
    return 1 << (count - 1).bit_length()
