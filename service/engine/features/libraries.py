"""Puts another library's feature caching on a denoiser; tested with diffusers 0.42 and cache-dit 1.5."""

import importlib
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    FluxTransformer2DModel,
    MagCacheConfig,
    PixArtTransformer2DModel,
    PyramidAttentionBroadcastConfig,
    SD3Transformer2DModel,
    TaylorSeerCacheConfig,
    apply_faster_cache,
    apply_first_block_cache,
    apply_pyramid_attention_broadcast,
    apply_taylorseer_cache,
)
from diffusers.hooks import apply_mag_cache

MODULES = {"diffusers": "diffusers", "cache-dit": "cache_dit"}
# What TaylorSeer extrapolates in every transformer block, in UNets as elsewhere, and what need not run for that.
SUBLAYERS = [
    r"(?:.*\.)?transformer_blocks\.\d+\.(?:attn\d?|ff|ff_context)",
    r"single_transformer_blocks\.\d+\.proj_out",
]
SKIPPED = [r"single_transformer_blocks\.\d+\.(?:attn|proj_mlp)"]
# Arguments that hold the unconditional row before the conditional one.
PAIRED = [
    "hidden_states",
    "encoder_hidden_states",
    "timestep",
    "attention_mask",
    "encoder_attention_mask",
    "pooled_projections",
]
# How cache-dit sees the blocks of the denoisers we know; others it may know itself.
PATTERNS = {
    FluxTransformer2DModel: ("Pattern_1", ("transformer_blocks", "single_transformer_blocks")),
    PixArtTransformer2DModel: ("Pattern_3", ("transformer_blocks",)),
    SD3Transformer2DModel: ("Pattern_1", ("transformer_blocks",)),
}
# The last block has no text stream to give: they take None for a tensor.
REFUSED = {SD3Transformer2DModel: ("diffusers:first-block-cache", "diffusers:taylorseer-lite")}


@dataclass
class Clock:
    """Where the job stands, for methods that ask.

    Attributes:
        timestep: the model's time value.
        fresh: nothing was evaluated yet.
    """

    timestep: float = 0.0
    fresh: bool = True

    def read(self) -> float:
        """Return the time value; at the first evaluation one at which nothing is reused."""
        return math.inf if self.fresh else self.timestep


@dataclass(frozen=True)
class Settings:
    """What a method is put on with.

    Attributes:
        values: of its knobs.
        clock: is kept up to date.
        paired: the batch is an unconditional row and a conditional one.
        steps: evaluations to come.
        ratios: MagCache's, of these evaluations.
    """

    values: Mapping[str, float]
    clock: Clock
    paired: bool
    steps: int
    ratios: tuple[float, ...] = ()

    def whole(self, name: str) -> int:
        """Return a knob's value as an integer."""
        return int(self.values[name])


def refuses(name: str, denoiser: Any) -> bool:
    """Tell whether a method is known not to run on a denoiser although it does on others of its architecture."""
    return name in REFUSED.get(type(denoiser), ())


def installed(library: str) -> bool:
    """Tell whether a library is there."""
    return find_spec(MODULES[library]) is not None


def put_on(name: str, denoiser: Any, settings: Settings) -> None:
    """Change a denoiser so that it caches; raises whatever the library raises where it cannot.

    Args:
        name: of the backend.
        denoiser: a copy that nobody else uses.
        settings: of the method.
    """
    if refuses(name, denoiser):
        raise ValueError(f"{name} does not run on {type(denoiser).__name__}")
    before = {id(module): vars(module).get("forward") for module in denoiser.modules()}
    _PUT_ON[name](denoiser, settings)
    # Most methods pass over models they do not know without a word.
    if all(vars(module).get("forward") is before.get(id(module)) for module in denoiser.modules()):
        raise ValueError(f"{name} finds nothing to cache in {type(denoiser).__name__}")


def _first_block_cache(denoiser: Any, settings: Settings) -> None:
    apply_first_block_cache(denoiser, FirstBlockCacheConfig(threshold=settings.values["threshold"]))


def _magcache(denoiser: Any, settings: Settings) -> None:
    config = MagCacheConfig(
        threshold=settings.values["threshold"],
        max_skip_steps=settings.whole("max_skips"),
        num_inference_steps=settings.steps,
        mag_ratios=list(settings.ratios),
    )
    apply_mag_cache(denoiser, config)


def _pab(denoiser: Any, settings: Settings) -> None:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=settings.whole("every"),
        cross_attention_block_skip_range=settings.whole("cross_every"),
        current_timestep_callback=settings.clock.read,
    )
    apply_pyramid_attention_broadcast(denoiser, config)


def _fastercache(denoiser: Any, settings: Settings) -> None:
    config = FasterCacheConfig(
        spatial_attention_block_skip_range=settings.whole("attention_every"),
        spatial_attention_block_identifiers=("blocks.*attn",),
        unconditional_batch_skip_range=settings.whole("every"),
        attention_weight_callback=lambda _: 0.5,
        tensor_format="BCHW",
        is_guidance_distilled=not settings.paired,
        current_timestep_callback=settings.clock.read,
        _unconditional_conditional_input_kwargs_identifiers=PAIRED,
    )
    # It tells every time that it is experimental.
    logging.getLogger("diffusers.hooks.faster_cache").setLevel(logging.ERROR)
    apply_faster_cache(denoiser, config)


def _taylorseer(denoiser: Any, settings: Settings, *, lite: bool = False) -> None:
    config = TaylorSeerCacheConfig(
        cache_interval=settings.whole("every"),
        taylor_factors_dtype=denoiser.dtype,
        cache_identifiers=None if lite else SUBLAYERS,
        skip_predict_identifiers=None if lite else SKIPPED,
        use_lite_mode=lite,
    )
    apply_taylorseer_cache(denoiser, config)


def _taylorseer_lite(denoiser: Any, settings: Settings) -> None:
    _taylorseer(denoiser, settings, lite=True)


def _dbcache(denoiser: Any, settings: Settings, *, extrapolates: bool = False) -> None:
    os.environ.setdefault("CACHE_DIT_LOG_LEVEL", "ERROR")
    cache_dit: Any = importlib.import_module("cache_dit")
    target, stacks = _adapter(cache_dit, denoiser)
    config = cache_dit.DBCacheConfig(
        Fn_compute_blocks=min(2, *(len(stack) for stack in stacks)),
        Bn_compute_blocks=0,
        residual_diff_threshold=settings.values["threshold"],
        max_warmup_steps=settings.whole("warmup"),
        enable_separate_cfg=False,
    )
    taylor = None
    if extrapolates:
        # Of SD3's last block it would extrapolate a text stream there is not.
        text = not isinstance(denoiser, SD3Transformer2DModel)
        taylor = cache_dit.TaylorSeerCalibratorConfig(taylorseer_order=1, enable_encoder_calibrator=text)
    cache_dit.enable_cache(target, cache_config=config, calibrator_config=taylor)


def _adapter(cache_dit: Any, denoiser: Any) -> tuple[Any, list[Any]]:
    """Return what cache-dit takes for a denoiser, and its stacks of blocks as far as known."""
    if type(denoiser) not in PATTERNS:
        return denoiser, [range(9)]
    pattern, names = PATTERNS[type(denoiser)]
    stacks = [getattr(denoiser, name) for name in names]
    adapter = cache_dit.BlockAdapter(
        transformer=denoiser,
        blocks=stacks,
        forward_pattern=[cache_dit.ForwardPattern[pattern]] * len(stacks),
    )
    return adapter, stacks


def _dbcache_taylorseer(denoiser: Any, settings: Settings) -> None:
    _dbcache(denoiser, settings, extrapolates=True)


_PUT_ON: dict[str, Callable[[Any, Settings], None]] = {
    "diffusers:first-block-cache": _first_block_cache,
    "diffusers:magcache": _magcache,
    "diffusers:pab": _pab,
    "diffusers:fastercache": _fastercache,
    "diffusers:taylorseer": _taylorseer,
    "diffusers:taylorseer-lite": _taylorseer_lite,
    "cache-dit:dbcache": _dbcache,
    "cache-dit:taylorseer": _dbcache_taylorseer,
}
