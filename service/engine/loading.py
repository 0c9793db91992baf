"""From a model's name to a running `Pipeline`."""

import json
import warnings
from pathlib import Path

import torch

from service.engine.base import EngineStartError, Pipeline
from service.engine.config import EngineConfig
from service.engine.families import HALF_PRECISION, NAMES, make_pipeline
from service.engine.lora import NO_LORAS, LoraShelf
from service.engine.placement import TILED_SIDE, Placement
from service.engine.quantise import QUANTISE, Quantise

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pipeline(
    model: str,
    device: str = "auto",
    dtype: str = "auto",
    shelf: LoraShelf = NO_LORAS,
    *,
    compiled: bool = False,
    tiled_side: int = TILED_SIDE,
    quantise: Quantise = "none",
) -> Pipeline:
    """Load a model; the family is read from its `model_index.json`.

    Args:
        model: local folder in diffusers' layout, or a hub id (downloaded into the hub's cache on first use).
        device: "auto", "cpu", "cuda", …
        dtype: "auto" (float32 on the CPU, else the family's own 16-bit type), "float32", "float16" or "bfloat16".
        shelf: where LoRAs lie.
        compiled: see `Placement`.
        tiled_side: see `Placement`.
        quantise: see `Placement`.

    Returns:
        The loaded pipeline.

    Raises:
        EngineStartError: one clear line saying what is wrong.
    """
    place = device_of(device)
    _check_dtype(dtype)
    if quantise not in QUANTISE:
        raise EngineStartError(f"unknown quantisation {quantise!r}; one of {', '.join(QUANTISE)}")
    _hush_libraries()
    folder = _folder(model)
    family = _family(folder)
    if family not in NAMES:
        raise EngineStartError(f"model family {family} is not supported; supported: {', '.join(NAMES)}")
    placement = Placement(place, _dtype(dtype, place, family), shelf, compiled, tiled_side, quantise)
    name = Path(model).name if Path(model).is_dir() else model
    try:
        return make_pipeline(family, folder, name, placement)
    except EngineStartError:
        raise
    except Exception as error:
        raise EngineStartError(f"cannot load model {name}: {_first_line(error)}") from error


def load_configured(config: EngineConfig) -> Pipeline:
    """Load what an engine is configured to run; raises EngineStartError like `load_pipeline`."""
    return load_pipeline(
        config.model,
        config.device,
        config.dtype,
        config.loras,
        compiled=config.compiled,
        tiled_side=config.tiled_side,
        quantise=config.quantise,
    )


def _hush_libraries() -> None:
    """Turn off progress bars and advice; errors go to our own log, which is one JSON object per line."""
    import diffusers.utils.logging
    import transformers.utils.logging
    from huggingface_hub.utils.tqdm import disable_progress_bars

    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.disable_progress_bar()
        library.set_verbosity_error()
        library.disable_default_handler()
        library.enable_propagation()
    disable_progress_bars()
    # Several LoRAs in one model are what we want.
    warnings.filterwarnings("ignore", message="Already found a `peft_config`")


def device_of(wish: str) -> torch.device:
    """Return the torch device of a setting; "auto" is CUDA if there is one.

    Raises:
        EngineStartError: there is no such device.
    """
    if wish == "auto":
        wish = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise EngineStartError(f"unknown device {wish!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineStartError(f"device {wish!r} was asked for, but there is no CUDA device")
    return device


def _check_dtype(wish: str) -> None:
    if wish not in ("auto", *DTYPES):
        raise EngineStartError(f"unknown dtype {wish!r}; one of auto, {', '.join(DTYPES)}")


def _dtype(wish: str, device: torch.device, family: str) -> torch.dtype:
    if wish == "auto":
        wish = "float32" if device.type == "cpu" else HALF_PRECISION[family]
    return DTYPES[wish]


def _folder(model: str) -> Path:
    if Path(model).is_dir():
        return Path(model)
    from diffusers import DiffusionPipeline

    try:
        return Path(DiffusionPipeline.download(model))
    except Exception as error:
        raise EngineStartError(f"model {model!r} is neither a local folder nor to be had from the hub") from error


def _family(folder: Path) -> str:
    index = folder / "model_index.json"
    if not index.is_file():
        raise EngineStartError(f"{folder.name} has no model_index.json: not a folder in diffusers' layout")
    try:
        family = json.loads(index.read_text()).get("_class_name")
    except (ValueError, AttributeError) as error:
        raise EngineStartError(f"{folder.name}/model_index.json is not valid") from error
    return str(family)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
