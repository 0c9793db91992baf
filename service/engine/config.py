"""What an engine needs to know before it starts."""

from dataclasses import dataclass
from pathlib import Path

from service.engine.lora import NO_LORAS, LoraShelf
from service.engine.placement import TILED_SIDE
from service.engine.quantise import Quantise

FEATURE_BYTES = 1024**3
"""Most bytes feature caching remembers, unless told otherwise."""


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Which model to run, where, and how much of it at once.

    Attributes:
        model: local folder in diffusers' layout, or a hub id.
        device: "auto" (CUDA if there is one), "cpu", "cuda", "cuda:1", …
        dtype: "auto" (float32 on the CPU, else the family's own 16-bit type), "float32", "float16" or "bfloat16".
        max_batch: most jobs that advance together.
        max_pixels: most pixels that advance together; 0 = what `max_batch` guided pictures of the default size have.
        compiled: whether the denoiser goes through torch.compile.
        tiled_side: pictures with a longer side, in pixels, are decoded in tiles.
        threads: CPU threads of the network's maths; 0 = leave torch's default.
        kind: "process" (supervised child process) or "local" (a thread of this process).
        log_level: least severe log line an engine process keeps.
        loras: where LoRAs lie, and how many may be loaded.
        features: folder of what feature caching methods were calibrated to; None = there is none.
        calibration: digest of that folder; with another one nothing in it counts.
        feature_bytes: most bytes feature caching remembers for all jobs in the loop.
        quantise: "int8" to keep the denoiser's weights as integers, or "none".
    """

    model: str
    device: str = "auto"
    dtype: str = "auto"
    max_batch: int = 8
    max_pixels: int = 0
    compiled: bool = False
    tiled_side: int = TILED_SIDE
    threads: int = 0
    kind: str = "process"
    log_level: str = "info"
    loras: LoraShelf = NO_LORAS
    features: Path | None = None
    calibration: str = ""
    feature_bytes: int = FEATURE_BYTES
    quantise: Quantise = "none"
