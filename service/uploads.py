"""Pictures that clients send: decoded within bounds, fitted to the size to be drawn, and named by their pixels."""

import asyncio
import hashlib
import io
import time
import warnings
from collections import deque
from collections.abc import Callable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from service.engine.base import ImageArray, ModelInfo
from service.engine.reference import Reference

Result = TypeVar("Result")
FORMATS = ("PNG", "JPEG", "WEBP")
MOST_PIXELS = 4096 * 4096
_AT_ONCE = 2
_OPAQUE = 255


class UploadError(Exception):
    """A picture cannot be used; the message is for the client and names the field.

    Attributes:
        field: which picture.
        code: "invalid_image", "image_too_large" or "invalid_mask".
    """

    def __init__(self, field: str, code: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.code = code


class TooLateError(Exception):
    """A picture was not decoded by its request's deadline."""


class Darkroom:
    """Decodes pictures in worker threads, few at a time: each may take a hundred megabytes while it is at it.

    Tenants take turns, however many pictures each of them sends.
    """

    def __init__(self) -> None:
        self._free = _AT_ONCE
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    async def reference(
        self,
        image: bytes,
        mask: bytes | None,
        strength: float,
        size_of: Callable[[int, int], tuple[int, int]],
        *,
        tenant: str,
        deadline: float,
    ) -> Reference:
        """Return what clients sent as a picture to begin from.

        Args:
            image: an encoded picture.
            mask: an encoded picture, transparent where the first is to be drawn anew; None = everywhere.
            strength: see `Reference`.
            size_of: the size to draw, by the size of the picture.
            tenant: whose turn it takes.
            deadline: time.monotonic() after which nobody waits for it.

        Raises:
            UploadError: one of them cannot be used.
            TooLateError: it took too long.
        """
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                await self._turn(tenant)
                work = asyncio.get_running_loop().run_in_executor(None, _reference, image, mask, strength, size_of)
                # A thread cannot be stopped: its turn ends when it does, whether anybody still waits or not.
                work.add_done_callback(self._done)
                return await asyncio.shield(work)
        except TimeoutError:
            raise TooLateError from None

    async def _turn(self, tenant: str) -> None:
        if self._free:
            self._free -= 1
            return
        mine = asyncio.get_running_loop().create_future()
        self._lines.setdefault(tenant, deque()).append(mine)
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._pass_on()
            raise

    def _done(self, work: asyncio.Future[Reference]) -> None:
        if not work.cancelled():
            work.exception()  # looked at, though nobody may wait for it any more
        self._pass_on()

    def _pass_on(self) -> None:
        """Give a turn to the next tenant in line, which then goes to the end."""
        while self._lines:
            tenant = next(iter(self._lines))
            line = self._lines.pop(tenant)
            waiting = line.popleft()
            if line:
                self._lines[tenant] = line
            if not waiting.done():
                waiting.set_result(None)
                return
        self._free += 1


def own_size(info: ModelInfo) -> Callable[[int, int], tuple[int, int]]:
    """Return what keeps a picture's size where the model can draw that, and takes the model's own where it cannot."""

    def size(width: int, height: int) -> tuple[int, int]:
        drawable = all(
            info.size_multiple <= side <= info.max_size and side % info.size_multiple == 0 for side in (width, height)
        )
        return (width, height) if drawable else (info.width, info.height)

    return size


def _reference(
    image: bytes, mask: bytes | None, strength: float, size_of: Callable[[int, int], tuple[int, int]]
) -> Reference:
    picture = _load("image", image)
    size = size_of(*picture.size)
    wanted = None if mask is None else _transparent(_load("mask", mask), picture.size, size)
    pixels = _pixels(picture, size)
    return Reference(pixels, strength, _digest(pixels, wanted), wanted)


def _load(field: str, data: bytes) -> Image.Image:
    """Return a decoded picture, upright; whatever the decoder objects to is the file's fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                if picture.width * picture.height > MOST_PIXELS:
                    raise Image.DecompressionBombError
                picture.load()
                return ImageOps.exif_transpose(picture)
    except Image.DecompressionBombError:
        message = f"has too many pixels, at most {MOST_PIXELS} are accepted"
        raise UploadError(field, "image_too_large", message) from None
    except Exception:
        raise UploadError(field, "invalid_image", "not a readable PNG, JPEG or WebP picture") from None


def _pixels(picture: Image.Image, size: tuple[int, int]) -> ImageArray:
    """Return a picture on white, scaled to cover `size` and cut around its centre."""
    if picture.has_transparency_data:
        shown = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, shown)
    elif picture.mode.startswith("I"):  # sixteen bits a pixel
        picture = Image.fromarray((np.asarray(picture).astype(np.uint32) >> 8).clip(0, _OPAQUE).astype(np.uint8))
    return np.array(ImageOps.fit(picture.convert("RGB"), size, Image.Resampling.LANCZOS), np.uint8)


def _transparent(mask: Image.Image, size: tuple[int, int], drawn: tuple[int, int]) -> NDArray[np.bool_]:
    if not mask.has_transparency_data:
        message = "needs an alpha channel: transparent where the picture is to be drawn anew"
        raise UploadError("mask", "invalid_mask", message)
    if mask.size != size:
        raise UploadError("mask", "invalid_mask", "must have the size of the picture")
    clear = np.asarray(mask.convert("RGBA"))[..., 3] == 0
    fitted = ImageOps.fit(Image.fromarray(clear.astype(np.uint8) * _OPAQUE), drawn, Image.Resampling.BILINEAR)
    wanted: NDArray[np.bool_] = np.asarray(fitted) > _OPAQUE // 2
    if not wanted.any():
        raise UploadError("mask", "invalid_mask", "nothing is transparent, so there is nothing to draw")
    return wanted


def _digest(pixels: ImageArray, mask: NDArray[np.bool_] | None) -> str:
    found = hashlib.sha256(f"{pixels.shape} {mask is not None}".encode())
    found.update(pixels.tobytes())
    found.update(b"" if mask is None else np.packbits(mask).tobytes())
    return found.hexdigest()
