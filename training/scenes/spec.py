"""What a scene is, how scenes are drawn at random, split and edited."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

SHAPES = ("ball", "box", "triangle", "star", "heart", "ring", "moon", "flower")
COLOURS = (
    "red",
    "orange",
    "yellow",
    "green",
    "cyan",
    "blue",
    "purple",
    "pink",
    "white",
    "black",
)
SIZES = ("small", "medium", "large")
TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUNDS = (
    "meadow",
    "beach",
    "sea",
    "night",
    "sunset",
    "snow",
    "desert",
    "studio",
    "bricks",
    "wood",
)
PLACES = (
    "top left",
    "top",
    "top right",
    "left",
    "centre",
    "right",
    "bottom left",
    "bottom",
    "bottom right",
)
RELATIONS = ("left of", "above", "upper left of", "lower left of")
LAYOUTS = PLACES + RELATIONS
COUNTS = ("1", "2")

NOVEL_PAIRS = frozenset(
    {
        ("ball", "pink"),
        ("box", "cyan"),
        ("triangle", "purple"),
        ("star", "blue"),
        ("heart", "green"),
        ("ring", "orange"),
        ("moon", "red"),
        ("flower", "black"),
    }
)
"""(shape, colour) pairs that are never trained on."""

Split = Literal["train", "heldout", "novel"]
EditKind = Literal["wording", "colour", "shape", "position", "background", "size", "texture"]
EDIT_KINDS: tuple[EditKind, ...] = (
    "wording",
    "colour",
    "shape",
    "position",
    "background",
    "size",
    "texture",
)

_HELDOUT_ONE_IN = 16
_TEXTURE_ODDS = (0.5, 0.17, 0.17, 0.16)


@dataclass(frozen=True)
class Thing:
    """One object of a scene."""

    shape: str
    colour: str
    size: str
    texture: str


@dataclass(frozen=True)
class Scene:
    """One or two things, where they are, and what is behind them.

    With two things, ``layout`` says how the first lies to the second ("left of", "above", ...), so
    the order of ``things`` is canonical: a scene has one spelling only.
    """

    things: tuple[Thing, ...]
    layout: str
    background: str

    def attributes(self) -> dict[str, str]:
        """Flat attribute names and values, such as ``{"a.shape": "ball", "layout": "top", ...}``."""
        flat = {
            "layout": self.layout,
            "background": self.background,
            "count": str(len(self.things)),
        }
        for name, thing in zip("ab", self.things, strict=False):
            flat[f"{name}.shape"] = thing.shape
            flat[f"{name}.colour"] = thing.colour
            flat[f"{name}.size"] = thing.size
            flat[f"{name}.texture"] = thing.texture
        return flat


THING_ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "texture": TEXTURES,
}
ATTRIBUTE_VALUES: dict[str, tuple[str, ...]] = {
    "count": COUNTS,
    "layout": LAYOUTS,
    "background": BACKGROUNDS,
    **{f"{name}.{key}": values for name in "ab" for key, values in THING_ATTRIBUTES.items()},
}
"""Every attribute a scene may have and the values it may take."""


def is_novel(scene: Scene) -> bool:
    """Whether the scene holds a (shape, colour) pair that is never trained on."""
    return any((thing.shape, thing.colour) in NOVEL_PAIRS for thing in scene.things)


def split_of(scene: Scene) -> Split:
    """The split a scene belongs to; it depends on the scene's attributes alone."""
    if is_novel(scene):
        return "novel"
    key = repr(sorted(scene.attributes().items())).encode()
    return "heldout" if zlib.crc32(key) % _HELDOUT_ONE_IN == 0 else "train"


def sample_scene(rng: np.random.Generator, split: Split = "train") -> Scene:
    """Draw a random scene of one split.

    Args:
        rng: source of randomness.
        split: "train", "heldout" (attribute combinations kept out of training) or "novel" (at least
            one shape and colour pair that training never shows).

    Raises:
        ValueError: the split is unknown.
    """
    if split not in ("train", "heldout", "novel"):
        raise ValueError(f"unknown split {split!r}")
    while True:
        scene = _any_scene(rng)
        if split == "novel":
            scene = _with_novel_pair(scene, rng)
        if split_of(scene) == split:
            return scene


def edit(scene: Scene, rng: np.random.Generator, kind: EditKind) -> Scene:
    """Change one thing about a scene, as a user who edits a prompt would.

    Args:
        scene: the scene to start from; it is not changed.
        rng: source of randomness.
        kind: one of ``EDIT_KINDS``; "wording" returns the same scene.

    Returns:
        A scene that differs in one attribute, and holds a never-trained pair only if ``scene`` did.

    Raises:
        ValueError: the kind is unknown.
    """
    if kind not in EDIT_KINDS:
        raise ValueError(f"unknown edit {kind!r}")
    if kind == "wording":
        return scene
    while True:
        changed = _edited(scene, rng, kind)
        if changed != scene and (is_novel(scene) or not is_novel(changed)):
            return changed


def _pick(rng: np.random.Generator, values: tuple[str, ...]) -> str:
    return values[int(rng.integers(len(values)))]


def _any_thing(rng: np.random.Generator) -> Thing:
    texture = TEXTURES[int(rng.choice(len(TEXTURES), p=_TEXTURE_ODDS))]
    return Thing(_pick(rng, SHAPES), _pick(rng, COLOURS), _pick(rng, SIZES), texture)


def _any_scene(rng: np.random.Generator) -> Scene:
    count = 1 + int(rng.random() < 0.5)
    things = tuple(_any_thing(rng) for _ in range(count))
    layout = _pick(rng, PLACES if count == 1 else RELATIONS)
    return Scene(things, layout, _pick(rng, BACKGROUNDS))


def _with_novel_pair(scene: Scene, rng: np.random.Generator) -> Scene:
    pairs = sorted(NOVEL_PAIRS)
    shape, colour = pairs[int(rng.integers(len(pairs)))]
    return _with_thing(scene, rng, {"shape": shape, "colour": colour})


def _with_thing(scene: Scene, rng: np.random.Generator, changes: dict[str, str]) -> Scene:
    things = list(scene.things)
    index = int(rng.integers(len(things)))
    things[index] = replace(things[index], **changes)
    return replace(scene, things=tuple(things))


def _edited(scene: Scene, rng: np.random.Generator, kind: EditKind) -> Scene:
    if kind == "background":
        return replace(scene, background=_pick(rng, BACKGROUNDS))
    if kind == "position":
        layouts = PLACES if len(scene.things) == 1 else RELATIONS
        return replace(scene, layout=_pick(rng, layouts))
    return _with_thing(scene, rng, {kind: _pick(rng, THING_ATTRIBUTES[kind])})
