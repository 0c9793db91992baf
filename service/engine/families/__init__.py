"""One file per model family, each a `Pipeline` over diffusers' own model classes."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from service.engine.base import Pipeline
from service.engine.placement import Placement

# diffusers' pipeline class, as `model_index.json` names it -> our module and class.
_FAMILIES = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("sdxl", "StableDiffusionXL"),
    "PixArtSigmaPipeline": ("pixart_sigma", "PixArtSigma"),
    "StableDiffusion3Pipeline": ("sd3", "StableDiffusion3"),
    "FluxPipeline": ("flux", "Flux"),
}
# The 16-bit type a family's weights were released in; float16 overflows in FLUX's and T5's widest layers.
HALF_PRECISION = {
    "StableDiffusionPipeline": "float16",
    "StableDiffusionXLPipeline": "float16",
    "PixArtSigmaPipeline": "float16",
    "StableDiffusion3Pipeline": "bfloat16",
    "FluxPipeline": "bfloat16",
}
NAMES = tuple(_FAMILIES)


def make_pipeline(name: str, folder: Path, model_id: str, place: Placement) -> Pipeline:
    """Load a model of a family.

    Args:
        name: diffusers' pipeline class, one of NAMES.
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        place: where and how it runs.

    Raises:
        EngineStartError: the folder holds a variant of the family that cannot be served.
    """
    module, family = _FAMILIES[name]
    # Imported late: a family drags in its own models, and only one is served.
    make: Callable[..., Pipeline] = vars(import_module(f"service.engine.families.{module}"))[family]
    return make(folder, model_id, place)
