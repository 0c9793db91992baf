"""Procedural backgrounds: 128x128 float32 RGB pictures in [0, 1] full of fine, cheap detail."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]

IMAGE_SIZE = 128
_TILE = 256
Y, X = np.mgrid[0:IMAGE_SIZE, 0:IMAGE_SIZE].astype(np.float32)


def colour(red: float, green: float, blue: float) -> Field:
    """An RGB colour from 0..255 values, as float32 in [0, 1]."""
    return np.asarray(np.array([red, green, blue]) / 255, np.float32)


def mix(low: Field, high: Field, share: Field) -> Field:
    """Blend two colours (or pictures) by a HxW share."""
    weight = share[..., None]
    return np.asarray(low + (high - low) * weight, np.float32)


@lru_cache(maxsize=16)
def _tile(cells_y: int, cells_x: int) -> Field:
    """A seamless 256x256 field of smooth noise in [0, 1] with the given number of cells."""
    rng = np.random.default_rng([cells_y, cells_x])
    grid = rng.random((cells_y, cells_x)).astype(np.float32)
    for axis, cells in ((0, cells_y), (1, cells_x)):
        at = np.arange(_TILE, dtype=np.float32) * cells / _TILE
        low = at.astype(int)
        share = (at - low) ** 2 * (3 - 2 * (at - low))
        shape = (-1, 1) if axis == 0 else (1, -1)
        below, above = np.take(grid, low, axis), np.take(grid, (low + 1) % cells, axis)
        grid = below + (above - below) * share.reshape(shape)
    return np.asarray(grid, np.float32)


def _noise(rng: np.random.Generator, cells_y: int, cells_x: int) -> Field:
    """A random 128x128 window of smooth noise; more cells, finer noise."""
    top, left = rng.integers(_TILE - IMAGE_SIZE, size=2)
    return _tile(cells_y, cells_x)[top : top + IMAGE_SIZE, left : left + IMAGE_SIZE]


def _ramp(low: float, high: float, field: Field) -> Field:
    return np.asarray(np.clip((field - low) / (high - low), 0, 1), np.float32)


def _specks(
    picture: Field,
    rng: np.random.Generator,
    count: int,
    tone: Field,
    rows: tuple[int, int] = (0, IMAGE_SIZE),
    radius: tuple[float, float] = (0.6, 1.4),
) -> None:
    """Paint small soft dots into the picture, in place."""
    ys = rng.uniform(rows[0], rows[1], count)
    xs = rng.uniform(0, IMAGE_SIZE, count)
    radii = rng.uniform(radius[0], radius[1], count)
    for y, x, r in zip(ys, xs, radii, strict=True):
        top, left = max(int(y) - 4, 0), max(int(x) - 4, 0)
        window = np.s_[top : top + 9, left : left + 9]
        distance = (Y[window] - y) ** 2 + (X[window] - x) ** 2
        share = np.exp(-distance / np.float32(r * r)).astype(np.float32)
        picture[window] = mix(picture[window], tone, share)


def _sky(rng: np.random.Generator, top: Field, low: Field, horizon: float) -> Field:
    sky = mix(top, low, np.clip(Y / np.float32(horizon), 0, 1))
    cloud = _ramp(0.58, 0.85, 0.65 * _noise(rng, 10, 5) + 0.35 * _noise(rng, 32, 20))
    return mix(sky, colour(255, 255, 255), cloud * np.float32(0.8))


def _skyline(rng: np.random.Generator, height: float, swing: float) -> Field:
    """A wavy horizon, one height (in pixels from the top) per column."""
    phase = rng.uniform(0, 2 * np.pi, 3)
    x = X[0]
    wave = np.sin(x / 29 + phase[0]) + 0.5 * np.sin(x / 13 + phase[1]) + 0.2 * np.sin(x / 5 + phase[2])
    return np.asarray(height + swing * wave, np.float32)


def _below(line: Field) -> Field:
    return np.asarray(np.clip(Y - line[None, :] + 0.5, 0, 1), np.float32)


def _meadow(rng: np.random.Generator) -> Field:
    line = _skyline(rng, rng.uniform(34, 46), 2.5)
    sky = _sky(rng, colour(96, 165, 235), colour(205, 230, 250), 48)
    blades = 0.6 * _noise(rng, 26, 100) + 0.4 * _noise(rng, 12, 14)
    grass = mix(colour(38, 104, 36), colour(136, 194, 74), _ramp(0.2, 0.8, blades))
    grass *= (np.float32(1.12) - Y / np.float32(420))[..., None]
    picture = mix(sky, grass, _below(line))
    rows = (54, IMAGE_SIZE)
    _specks(picture, rng, 12, colour(252, 250, 240), rows, (1.0, 1.7))
    _specks(picture, rng, 8, colour(250, 214, 70), rows, (1.0, 1.7))
    return picture


def _beach(rng: np.random.Generator) -> Field:
    shore = _skyline(rng, rng.uniform(44, 56), 3.0)
    ripple = np.sin(Y * np.float32(1.1) + 3 * _noise(rng, 12, 12) * np.float32(np.pi))
    sea = mix(colour(20, 120, 170), colour(90, 205, 215), np.clip(Y / 56, 0, 1))
    sea += (ripple * np.float32(0.05))[..., None]
    grains = 0.5 * _noise(rng, 110, 110) + 0.5 * _noise(rng, 20, 12)
    sand = mix(colour(204, 170, 112), colour(245, 222, 172), _ramp(0.2, 0.8, grains))
    picture = mix(sea, sand, _below(shore))
    foam = np.exp(-(((Y - shore[None, :]) / np.float32(2.6)) ** 2))
    picture = mix(picture, colour(252, 254, 255), foam * _ramp(0.1, 0.6, _noise(rng, 50, 50)))
    _specks(picture, rng, 12, colour(150, 112, 80), (62, IMAGE_SIZE), (0.9, 1.8))
    return picture


def _sea(rng: np.random.Generator) -> Field:
    warp = 9 * _noise(rng, 10, 10) + 3 * _noise(rng, 30, 24)
    wave = np.sin(Y * np.float32(0.62) + warp + rng.uniform(0, 6))
    tone = mix(colour(8, 52, 112), colour(34, 128, 180), np.clip(Y / 128, 0, 1))
    picture = mix(tone, colour(92, 190, 218), _ramp(0.35, 1.0, wave) * np.float32(0.75))
    crest = _ramp(0.86, 0.99, wave) * _ramp(0.45, 0.7, _noise(rng, 40, 30))
    return mix(picture, colour(242, 252, 255), crest)


def _night(rng: np.random.Generator) -> Field:
    sky = mix(colour(10, 12, 40), colour(48, 46, 104), np.clip(Y / 110, 0, 1))
    band = np.exp(-(((Y - 0.5 * X - rng.uniform(-10, 60)) / 22) ** 2)) * _noise(rng, 24, 24)
    picture = mix(sky, colour(140, 130, 196), band * np.float32(0.55))
    _specks(picture, rng, 46, colour(255, 252, 236), (0, 112), (0.6, 1.2))
    _specks(picture, rng, 7, colour(255, 240, 200), (0, 108), (1.4, 2.0))
    line = _skyline(rng, rng.uniform(108, 116), 2.5)
    hills = mix(colour(8, 14, 22), colour(20, 32, 40), _noise(rng, 40, 60))
    return mix(picture, hills, _below(line))


def _sunset(rng: np.random.Generator) -> Field:
    share = Y / np.float32(96)
    picture = mix(colour(84, 52, 128), colour(240, 108, 84), np.clip(share * 1.6, 0, 1))
    picture = mix(picture, colour(255, 206, 112), np.clip(share * 1.8 - 0.9, 0, 1))
    streak = _ramp(0.5, 0.8, 0.6 * _noise(rng, 34, 5) + 0.4 * _noise(rng, 60, 14))
    picture = mix(picture, colour(255, 170, 150), streak * np.float32(0.65))
    far, near = _skyline(rng, rng.uniform(94, 100), 4), _skyline(rng, rng.uniform(110, 116), 3)
    picture = mix(picture, colour(122, 62, 104), _below(far))
    ridge = mix(colour(40, 22, 56), colour(74, 40, 78), _noise(rng, 50, 50))
    return mix(picture, ridge, _below(near))


def _pines(picture: Field, rng: np.random.Generator, ground: float) -> None:
    for x in rng.uniform(0, IMAGE_SIZE, 14):
        height = rng.uniform(11, 20)
        rise = (ground + 2 - Y) / np.float32(height)
        width = np.float32(0.32 * height) * (1 - rise) * (0.72 + 0.28 * ((rise * 4) % 1))
        tree = np.clip(width - np.abs(X - np.float32(x)) + 0.5, 0, 1) * ((rise > 0) & (rise < 1))
        tone = mix(colour(28, 66, 60), colour(58, 104, 92), rng.random() * np.ones((1, 1), np.float32))
        picture[...] = mix(picture, tone[0, 0], tree.astype(np.float32))


def _snow(rng: np.random.Generator) -> Field:
    ground = rng.uniform(36, 46)
    picture = mix(colour(150, 178, 206), colour(222, 232, 242), np.clip(Y / 44, 0, 1))
    _pines(picture, rng, ground)
    drift = 0.6 * _noise(rng, 14, 6) + 0.4 * _noise(rng, 60, 40)
    field = mix(colour(192, 208, 232), colour(250, 252, 255), _ramp(0.25, 0.75, drift))
    picture = mix(picture, field, _below(_skyline(rng, ground, 1.5)))
    _specks(picture, rng, 40, colour(255, 255, 255), (0, IMAGE_SIZE), (0.8, 1.7))
    return picture


def _desert(rng: np.random.Generator) -> Field:
    picture = mix(colour(120, 184, 226), colour(250, 226, 186), np.clip(Y / 46, 0, 1))
    for height, low, high in ((38, 196, 0.86), (58, 214, 0.95), (84, 228, 1.0)):
        line = _skyline(rng, height + rng.uniform(-4, 4), 5)
        ripple = np.sin((Y - line[None, :]) * np.float32(0.85) + 4 * _noise(rng, 9, 9))
        light = (_ramp(-1, 1, ripple) * 0.22 + 0.78 * np.exp(-np.abs(Y - line[None, :]) / 60)) * high
        dune = mix(colour(148, 84, 42), colour(low + 20, 168, 98), light.astype(np.float32))
        picture = mix(picture, dune, _below(line))
    return picture


def _studio(rng: np.random.Generator) -> Field:
    centre = rng.uniform(40, 88, 2)
    glow = np.exp(-((X - centre[0]) ** 2 + (Y - centre[1]) ** 2) / np.float32(2 * 58**2))
    picture = mix(colour(146, 148, 156), colour(226, 226, 230), glow.astype(np.float32))
    line = np.full(IMAGE_SIZE, rng.uniform(88, 98), np.float32)
    floor = picture * np.float32(0.84)
    return mix(picture, floor, np.clip((Y - line) / 6, 0, 1))


def _bricks(rng: np.random.Generator) -> Field:
    width, height = 22.0, 11.0
    y = Y + np.float32(rng.uniform(0, height))
    row = np.floor(y / height)
    x = X + np.float32(rng.uniform(0, width)) + (row % 2) * np.float32(width / 2)
    column = np.floor(x / width)
    tone = (np.sin(row * 12.9898 + column * 78.233) * 43758.5453) % 1
    edge = np.minimum(np.minimum(x % width, width - x % width), np.minimum(y % height, height - y % height))
    brick = mix(colour(132, 58, 44), colour(190, 102, 76), tone.astype(np.float32))
    brick *= (0.86 + 0.28 * _noise(rng, 90, 90))[..., None]
    return mix(colour(206, 196, 184), brick, _ramp(0.5, 1.6, edge))


def _wood(rng: np.random.Generator) -> Field:
    y = Y + np.float32(rng.uniform(0, 26))
    plank = np.floor(y / 26)
    shift = ((plank * 37.7) % 11)[..., None]
    grain = np.sin(18 * _noise(rng, 26, 4) + y * np.float32(0.35) + shift[..., 0])
    wood = mix(colour(122, 80, 44), colour(190, 138, 84), _ramp(-1, 1, grain))
    wood *= (0.9 + 0.2 * ((plank * 0.618) % 1) + 0.12 * (_noise(rng, 100, 26) - 0.5))[..., None]
    seam = np.minimum(y % 26, 26 - y % 26)
    return wood * (0.35 + 0.65 * _ramp(0.2, 1.5, seam))[..., None]


PAINTERS: dict[str, Callable[[np.random.Generator], Field]] = {
    "meadow": _meadow,
    "beach": _beach,
    "sea": _sea,
    "night": _night,
    "sunset": _sunset,
    "snow": _snow,
    "desert": _desert,
    "studio": _studio,
    "bricks": _bricks,
    "wood": _wood,
}
