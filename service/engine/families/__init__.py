"""One file per model family, each a `Pipeline` over diffusers' own model classes."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import torch

from service.engine.base import Pipeline
from service.engine.lora import LoraShelf

# diffusers' pipeline class, as `model_index.json` names it -> our module and class.
_FAMILIES = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("sdxl", "StableDiffusionXL"),
    "PixArtSigmaPipeline": ("pixart_sigma", "PixArtSigma"),
    "StableDiffusion3Pipeline": ("sd3", "StableDiffusion3"),
    "FluxPipeline": ("flux", "Flux"),
}
NAMES = tuple(_FAMILIES)


def make_pipeline(
    name: str, folder: Path, model_id: str, device: torch.device, dtype: torch.dtype, shelf: LoraShelf
) -> Pipeline:
    """Load a model of a family.

    Args:
        name: diffusers' pipeline class, one of NAMES.
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        device: where the networks run.
        dtype: what they compute in; latents and solvers stay float32.
        shelf: where LoRAs lie.

    Raises:
        EngineStartError: the folder holds a variant of the family that cannot be served.
    """
    module, family = _FAMILIES[name]
    # Imported late: a family drags in its own models, and only one is served.
    make: Callable[..., Pipeline] = vars(import_module(f"service.engine.families.{module}"))[family]
    return make(folder, model_id, device, dtype, shelf)
