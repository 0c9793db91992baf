"""Signed distance fields of the shapes, in a frame where a shape has radius about 1, y up.

The formulas are the well-known two-dimensional ones collected by Inigo Quilez ("2D distance
functions"); where only the inside matters for shading, simpler bounds are used.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Field = npt.NDArray[np.float32]


def _ball(x: Field, y: Field) -> Field:
    return np.hypot(x, y) - np.float32(0.95)


def _box(x: Field, y: Field) -> Field:
    qx, qy = np.abs(x) - 0.66, np.abs(y) - 0.66
    outside = np.hypot(np.maximum(qx, 0), np.maximum(qy, 0))
    return np.asarray(outside + np.minimum(np.maximum(qx, qy), 0) - 0.14, np.float32)


def _triangle(x: Field, y: Field) -> Field:
    low = y + 0.15
    side = np.abs(x) * np.float32(0.866) + low * np.float32(0.5)
    return np.asarray(np.maximum(side, -low) - 0.54, np.float32)


def _star(x: Field, y: Field) -> Field:
    sector = np.float32(np.pi / 5)
    angle = np.abs((np.arctan2(x, y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    px, py = radius * np.cos(angle), radius * np.sin(angle)
    inner = np.array([0.47 * np.cos(sector), 0.47 * np.sin(sector)], np.float32)
    edge = inner - np.array([1.08, 0.0], np.float32)
    normal = np.array([edge[1], -edge[0]], np.float32) / np.hypot(*edge)
    return np.asarray((px - 1.08) * normal[0] + py * normal[1], np.float32)


def _heart(x: Field, y: Field) -> Field:
    hx, hy = np.abs(x) / np.float32(1.6), (y + 0.92) / np.float32(1.6)
    lobe = np.hypot(hx - 0.25, hy - 0.75) - np.float32(np.sqrt(2) / 4)
    half = np.float32(0.5) * np.maximum(hx + hy, 0)
    tip = np.minimum(np.hypot(hx, hy - 1), np.hypot(hx - half, hy - half)) * np.sign(hx - hy)
    return np.asarray(np.where(hx + hy > 1, lobe, tip) * 1.6, np.float32)


def _ring(x: Field, y: Field) -> Field:
    return np.asarray(np.abs(np.hypot(x, y) - 0.68) - 0.29, np.float32)


def _moon(x: Field, y: Field) -> Field:
    bite = 0.80 - np.hypot(x - 0.50, y - 0.22)
    return np.asarray(np.maximum(np.hypot(x, y) - 0.98, bite), np.float32)


def _flower(x: Field, y: Field) -> Field:
    sector = np.float32(np.pi / 6)
    angle = np.abs((np.arctan2(x, y) + sector) % (2 * sector) - sector)
    radius = np.hypot(x, y)
    petal = np.hypot(radius * np.cos(angle) - 0.66, radius * np.sin(angle)) - np.float32(0.33)
    return np.asarray(np.minimum(petal, radius - 0.42), np.float32)


SDFS: dict[str, Callable[[Field, Field], Field]] = {
    "ball": _ball,
    "box": _box,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "ring": _ring,
    "moon": _moon,
    "flower": _flower,
}
BEVELS: dict[str, float] = {
    "ball": 0.95,
    "box": 0.28,
    "triangle": 0.45,
    "star": 0.5,
    "heart": 0.6,
    "ring": 0.29,
    "moon": 0.38,
    "flower": 0.36,
}
"""How far in from the edge a shape keeps rising, in shape radii."""
