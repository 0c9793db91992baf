"""Scenes to pictures: distance fields, pillow height fields, soft light and soft shadows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from training.scenes.backgrounds import IMAGE_SIZE, PAINTERS, Field, X, Y, colour, mix
from training.scenes.shapes import BEVELS, SDFS
from training.scenes.spec import Scene, Thing

RADII = {"small": 14.5, "medium": 20.5, "large": 28.0}
"""Object radius in pixels by size."""

_PAINT = {
    "red": colour(214, 34, 38),
    "orange": colour(248, 130, 18),
    "yellow": colour(250, 216, 32),
    "green": colour(30, 158, 56),
    "cyan": colour(30, 206, 214),
    "blue": colour(36, 72, 216),
    "purple": colour(130, 44, 176),
    "pink": colour(250, 128, 188),
    "white": colour(244, 244, 242),
    "black": colour(30, 30, 34),
}
_PATTERN = {
    "yellow": colour(150, 96, 0),
    "white": colour(118, 122, 132),
    "cyan": colour(8, 92, 110),
    "pink": colour(140, 30, 92),
    "orange": colour(120, 44, 0),
    "black": colour(170, 170, 178),
}
_PALE = colour(250, 244, 230)
_LIGHT = np.array([-0.48, 0.56, 0.68], np.float32)
_HALFWAY = np.array([-0.26, 0.31, 0.915], np.float32)
_CENTRES = {"left": 0.0, "centre": 0.5, "right": 1.0, "top": 0.0, "bottom": 1.0}


def render(scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Draw a scene.

    Args:
        scene: what to draw.
        rng: source of the small differences (jitter, background detail) between two drawings.

    Returns:
        A 128x128x3 uint8 RGB picture.
    """
    picture = np.array(PAINTERS[scene.background](rng), np.float32)
    for thing, centre in zip(scene.things, _places(scene, rng.uniform(-3, 3, (2, 2))), strict=True):
        picture = _draw(picture, thing, centre, rng)
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)


def object_mask(scene: Scene) -> Field:
    """Where the things of a scene lie, roughly: discs of ones, float32 [128, 128]."""
    mask: Field = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    for thing, (x, y) in zip(scene.things, _places(scene, np.zeros((2, 2))), strict=True):
        near = (X - np.float32(x)) ** 2 + (Y - np.float32(y)) ** 2 < (RADII[thing.size] + 4) ** 2
        mask[near] = 1
    return mask


def _places(scene: Scene, jitter: npt.NDArray[np.float64]) -> list[tuple[float, float]]:
    """Centres (x, y) in pixels, y down."""
    if len(scene.things) == 1:
        x, y = _single_place(scene.layout, RADII[scene.things[0].size])
        return [(x + float(jitter[0, 0]), y + float(jitter[0, 1]))]
    low, mid, high = 0.26 * IMAGE_SIZE, 0.5 * IMAGE_SIZE, 0.74 * IMAGE_SIZE
    pair = {
        "left of": ((low, mid), (high, mid)),
        "above": ((mid, low), (mid, high)),
        "upper left of": ((low, low), (high, high)),
        "lower left of": ((low, high), (high, low)),
    }[scene.layout]
    return [(x + float(dx), y + float(dy)) for (x, y), (dx, dy) in zip(pair, jitter, strict=True)]


def _single_place(layout: str, radius: float) -> tuple[float, float]:
    words = layout.split()
    column = next((_CENTRES[w] for w in words if w in ("left", "right")), 0.5)
    row = next((_CENTRES[w] for w in words if w in ("top", "bottom")), 0.5)
    low, span = radius + 6, IMAGE_SIZE - 2 * (radius + 6)
    return low + column * span, low + row * span


def _draw(picture: Field, thing: Thing, centre: tuple[float, float], rng: np.random.Generator) -> Field:
    radius, angle = _pose(thing, rng)
    x, y = _local(centre, radius, angle)
    distance = SDFS[thing.shape](x, y) * np.float32(radius)
    shadow_centre = (centre[0] + 0.16 * radius, centre[1] + 0.24 * radius)
    shadow = SDFS[thing.shape](*_local(shadow_centre, radius, angle)) * np.float32(radius)
    softness = 1 / (1 + np.exp(np.clip(shadow / np.float32(2.2), -20, 20)))
    shaded = picture * (1 - np.float32(0.5) * softness)[..., None]
    body = _shade(_paint(thing, x, y, radius), distance, BEVELS[thing.shape] * radius)
    return mix(shaded, body, np.clip(np.float32(0.5) - distance, 0, 1))


def _pose(thing: Thing, rng: np.random.Generator) -> tuple[float, float]:
    """Radius in pixels and angle in radians of one drawing of a thing."""
    return RADII[thing.size] * float(rng.uniform(0.95, 1.05)), float(rng.uniform(-0.16, 0.16))


def _local(centre: tuple[float, float], radius: float, angle: float) -> tuple[Field, Field]:
    x = (X - np.float32(centre[0])) / np.float32(radius)
    y = (np.float32(centre[1]) - Y) / np.float32(radius)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos - y * sin, x * sin + y * cos


def _paint(thing: Thing, x: Field, y: Field, radius: float) -> Field:
    """The thing's own colour at each point, textured."""
    base = _PAINT[thing.colour]
    if thing.texture == "plain":
        return np.broadcast_to(base, (*x.shape, 3))
    cell = np.float32(max(0.46, 7.6 / radius))
    sharp = np.float32(radius) * cell
    if thing.texture == "striped":
        wave = np.abs((x * 0.5 + y * 0.866) / cell % 1 - 0.5) - 0.25
    elif thing.texture == "dotted":
        row = np.floor(y / cell)
        across = (x / cell + 0.5 * (row % 2)) % 1 - 0.5
        wave = np.float32(0.31) - np.hypot(across, y / cell % 1 - 0.5)
    else:
        across, along = np.abs(x / cell % 2 - 1) - 0.5, np.abs(y / cell % 2 - 1) - 0.5
        wave = np.sign(across * along) * np.minimum(np.abs(across), np.abs(along))
    share = np.clip(wave * sharp + np.float32(0.5), 0, 1).astype(np.float32)
    return mix(base, _PATTERN.get(thing.colour, _PALE), share)


def _shade(paint: Field, distance: Field, bevel: float) -> Field:
    """Lambert plus Blinn highlight on a height field that rises from the edge."""
    rise = np.clip(-distance / np.float32(bevel), 0, 1)
    height = np.float32(0.8 * bevel) * np.sqrt(np.maximum(1 - (1 - rise) ** 2, 0))
    down, right = np.gradient(height)
    length = np.sqrt(right**2 + down**2 + 1)
    lambert = (-right * _LIGHT[0] + down * _LIGHT[1] + _LIGHT[2]) / length
    gleam = np.maximum((-right * _HALFWAY[0] + down * _HALFWAY[1] + _HALFWAY[2]) / length, 0)
    light = np.float32(0.38) + np.float32(0.72) * np.maximum(lambert, 0)
    return np.asarray(paint * light[..., None] + 0.5 * (gleam**36)[..., None], np.float32)
