"""One backbone per architecture, and which of them a denoiser gets."""

import logging
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from policies.features.choice import Architecture, Traits
from policies.features.methods import GUIDANCE, METHODS
from service.engine.features.backbone import Backbone, UnsupportedSite
from service.engine.features.backbones.flux import FluxBackbone
from service.engine.features.backbones.pixart import PixArtBackbone
from service.engine.features.backbones.sd3 import SD3Backbone
from service.engine.features.backbones.unet import UNetBackbone

logger = logging.getLogger(__name__)

BACKBONES: Mapping[type, Callable[[Any], Backbone]] = MappingProxyType(
    {
        UNet2DConditionModel: UNetBackbone,
        PixArtTransformer2DModel: PixArtBackbone,
        SD3Transformer2DModel: SD3Backbone,
        FluxTransformer2DModel: FluxBackbone,
    }
)


def backbone_of(denoiser: Any) -> Backbone | None:
    """Return a denoiser taken apart; None, with a warning, where nothing inside can be cached."""
    try:
        # A subclass may have another forward.
        if type(denoiser) not in BACKBONES:
            raise UnsupportedSite(f"feature caching does not know the denoiser {type(denoiser).__name__}")
        return BACKBONES[type(denoiser)](denoiser)
    except UnsupportedSite as refusal:
        logger.warning("no feature caching inside the denoiser: %s", refusal)
        return None


def traits_of(backbone: Backbone, guided: bool) -> Traits:
    """Return what decides which methods a denoiser can run.

    Args:
        backbone: of the denoiser.
        guided: the run has an unconditional row.
    """
    if isinstance(backbone, UNetBackbone):
        return Traits("unet", backbone.branches, backbone.kinds, guided)
    return Traits("transformer", backbone.layers, backbone.kinds, guided)


def architecture_of(backbone: Backbone | None) -> Architecture:
    """Return the kind of a denoiser; where feature caching does not know it, it does not matter."""
    return "transformer" if backbone is None else traits_of(backbone, guided=False).architecture


def policies_of(backbone: Backbone | None, *, pairs: bool) -> tuple[str, ...]:
    """Return the names of the methods a denoiser can run, calibrated or not; () without a backbone.

    Args:
        backbone: of the denoiser.
        pairs: guidance takes a second network row.
    """
    if backbone is None:
        return ()
    architecture = traits_of(backbone, guided=False).architecture
    able = [method for method in METHODS.values() if architecture in method.architectures]
    return tuple(method.name for method in able if pairs or method.sites != (GUIDANCE,))
