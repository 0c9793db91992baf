"""Pictures that tests give to the page."""

from pathlib import Path

from PIL import Image

TEAL = (0, 128, 128)


def picture_file(folder: Path, size: tuple[int, int] = (32, 32)) -> Path:
    """Write a picture of one colour, teal."""
    path = folder / f"teal-{size[0]}x{size[1]}.png"
    Image.new("RGB", size, TEAL).save(path)
    return path


def mask_file(folder: Path, size: tuple[int, int] = (32, 32)) -> Path:
    """Write a mask that is transparent, so that it is drawn anew, in the right half."""
    mask = Image.new("RGBA", size, (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (size[0] // 2, 0, size[0], size[1]))
    path = folder / f"mask-{size[0]}x{size[1]}.png"
    mask.save(path)
    return path
