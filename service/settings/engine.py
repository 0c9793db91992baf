"""The model, the device, and how requests join there."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field

from service.settings.section import Folder, Section

REPOSITORY = Path(__file__).resolve().parent.parent.parent
DEFAULT_MODEL = REPOSITORY / "models" / "scenes-unet"
MOST_LORAS = 4
"""Per request."""


def _by_name(value: object) -> object:
    # "none" is how the environment unsets other settings.
    return "none" if value is None else value


class Model(Section):
    """The served model and its device."""

    title: ClassVar[str] = "Model and device"

    model: str = Field(
        str(DEFAULT_MODEL),
        min_length=1,
        description="Folder of a diffusers pipeline, or a hub id. The default is the shipped `models/scenes-unet`.",
    )
    device: str = Field("auto", min_length=1, description="Torch device of the engine: `auto`, `cpu`, `cuda`, …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number type of the network on the device."
    )
    quantise: Annotated[Literal["none", "int8"], BeforeValidator(_by_name)] = Field(
        "none",
        description="`int8` keeps the denoiser's weights as 8-bit integers: less memory, not faster, slightly other "
        "pictures, no LoRAs.",
    )
    engine: Literal["process", "local"] = Field(
        "process",
        description="`process` runs the engine as a supervised child; `local` inside the server (debugging).",
    )
    lora_dir: Folder | None = Field(
        None, description="Folder of LoRAs, `<name>.safetensors`, that requests may name; unset = none."
    )
    max_loras: int = Field(
        2 * MOST_LORAS,
        ge=MOST_LORAS,
        le=1024,
        description="Most LoRAs the engine holds loaded; the least recently used goes first.",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of the engine; 0 lets torch choose.")


class Batches(Section):
    """What advances together."""

    title: ClassVar[str] = "Joint batches"

    max_batch: int = Field(8, ge=1, le=1024, description="Most requests that advance in one joint batch.")
    max_pixels: int = Field(
        0,
        ge=0,
        description="Most pixels a joint batch works on, a picture's counted twice with classifier-free guidance; "
        "0 = `MAX_BATCH` guided pictures of the model's default size. A picture larger than that runs alone.",
    )
    batch_invariant: bool = Field(
        False,
        description="Draw every picture as if alone: its rows go through the networks on their own within the joint "
        "steps, so that a replay is the same bit for bit; else one drawn among others may differ by 1 of 255 levels. "
        "Costs throughput where many are in work.",
    )
    compile: bool = Field(
        False,
        description="Run the denoiser through torch.compile: first steps of a size or LoRA set slow, then faster.",
    )
    tiled_decode_side: int = Field(
        1536,
        ge=64,
        description="Pictures with a longer side, in pixels, are decoded in tiles, which takes less memory.",
    )
    deadline_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Time a picture may take, waiting included; then it is given up (504). A request may set less.",
    )
