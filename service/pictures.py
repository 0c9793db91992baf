"""Pixels to bytes: CPU work for a worker thread, not for the event loop, unless the picture is small (`aside`)."""

import asyncio
import io
from collections.abc import Callable
from typing import Literal, TypeVar

import numpy as np
from PIL import Image

from service.engine.base import ImageArray

OutputFormat = Literal["png", "jpeg", "webp"]
Result = TypeVar("Result")
DEFAULT_QUALITY = 90
SMALL_PIXELS = 128 * 128
"""Up to so many, work on a picture takes about as long as handing it to a thread and being woken again."""
PREVIEW_LEVEL = 1


async def aside(pixels: int, work: Callable[[], Result]) -> Result:
    """Return what `work` on a picture of so many pixels returns; done in a worker thread where that is worth it."""
    return work() if pixels <= SMALL_PIXELS else await asyncio.to_thread(work)


def encode(image: ImageArray, output_format: OutputFormat = "png", compression: int | None = None) -> bytes:
    """Encode pixels; `compression` is OpenAI's 0–100 (for JPEG and WebP: the quality), PNG is always lossless."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image)
    if output_format == "png":
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, output_format.upper(), quality=DEFAULT_QUALITY if compression is None else compression)
    return buffer.getvalue()


def encode_preview(image: ImageArray) -> bytes:
    """Encode a picture in progress: PNG, quick rather than small."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=PREVIEW_LEVEL)
    return buffer.getvalue()


def decode(png: bytes) -> ImageArray:
    """Decode a stored picture to pixels."""
    with Image.open(io.BytesIO(png)) as picture:
        return np.asarray(picture.convert("RGB"), dtype=np.uint8)


def transcode(png: bytes, output_format: OutputFormat, compression: int | None) -> bytes:
    """Return a stored PNG in another format."""
    return png if output_format == "png" else encode(decode(png), output_format, compression)
