"""Captions in varied wording, and what each of them pins down."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.scenes.spec import Scene, Thing


@dataclass(frozen=True)
class Caption:
    """A text about a scene and the attributes it pins down.

    ``mentioned`` holds attribute names as in ``Scene.attributes()``; what it leaves out may look
    any way in a right picture.
    """

    text: str
    scene: Scene
    mentioned: frozenset[str]


_SHAPE_WORDS = {
    "ball": ("ball", "sphere", "round ball"),
    "box": ("box", "cube", "block"),
    "triangle": ("triangle", "pyramid"),
    "star": ("star", "five-pointed star"),
    "heart": ("heart", "love heart"),
    "ring": ("ring", "hoop", "donut"),
    "moon": ("moon", "crescent", "crescent moon"),
    "flower": ("flower", "blossom"),
}
_COLOUR_WORDS = {
    "red": ("red", "crimson"),
    "orange": ("orange",),
    "yellow": ("yellow", "golden yellow"),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink", "rosy"),
    "white": ("white",),
    "black": ("black",),
}
_SIZE_WORDS = {
    "small": ("small", "little", "tiny"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big", "huge"),
}
_TEXTURE_BEFORE = {
    "plain": ("plain", "smooth"),
    "striped": ("striped", "stripy"),
    "dotted": ("dotted", "spotted", "polka-dot"),
    "checkered": ("checkered", "chequered"),
}
_TEXTURE_AFTER = {
    "plain": ("without a pattern",),
    "striped": ("with stripes",),
    "dotted": ("with dots", "with polka dots"),
    "checkered": ("with a checkered pattern", "with checks"),
}
_PLACE_WORDS = {
    "top left": ("in the top left corner", "at the top left", "in the upper left"),
    "top": ("at the top", "at the upper edge", "near the top"),
    "top right": ("in the top right corner", "at the top right", "in the upper right"),
    "left": ("on the left", "on the left side", "at the left edge"),
    "centre": ("in the centre", "in the middle", "in the center"),
    "right": ("on the right", "on the right side", "at the right edge"),
    "bottom left": ("in the bottom left corner", "at the bottom left", "in the lower left"),
    "bottom": ("at the bottom", "at the lower edge", "near the bottom"),
    "bottom right": ("in the bottom right corner", "at the bottom right", "in the lower right"),
}
_RELATION_WORDS = {
    "left of": ("to the left of", "left of", "on the left of"),
    "above": ("above", "over", "on top of"),
    "upper left of": ("above and to the left of", "to the upper left of"),
    "lower left of": ("below and to the left of", "to the lower left of"),
}
_REVERSED_WORDS = {
    "left of": ("to the right of", "right of", "on the right of"),
    "above": ("below", "under", "underneath"),
    "upper left of": ("below and to the right of", "to the lower right of"),
    "lower left of": ("above and to the right of", "to the upper right of"),
}
_BACKGROUND_WORDS = {
    "meadow": ("on a meadow", "in a grassy field", "on green grass", "in a meadow"),
    "beach": ("on a beach", "on a sandy beach", "at the beach", "by the seaside"),
    "sea": ("on the sea", "in the ocean", "among the waves", "at sea"),
    "night": ("in the night sky", "under the stars", "on a starry night", "at night"),
    "sunset": ("at sunset", "in a sunset sky", "in the evening glow", "at dusk"),
    "snow": ("in the snow", "in a snowy landscape", "on a winter day", "in winter"),
    "desert": ("in the desert", "among sand dunes", "over desert dunes"),
    "studio": ("in a studio", "on a grey backdrop", "against a plain grey background"),
    "bricks": ("in front of a brick wall", "on a brick wall", "against red bricks"),
    "wood": ("on a wooden table", "on wooden planks", "on wood"),
}
_OPENINGS = ("a picture of ", "an image of ", "a rendering of ", "a photo of ", "show me ", "draw ")


def _pick(rng: np.random.Generator, words: tuple[str, ...]) -> str:
    """The first, plainest word half of the time."""
    if rng.random() < 0.5:
        return words[0]
    return words[int(rng.integers(len(words)))]


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _thing(thing: Thing, name: str, rng: np.random.Generator) -> tuple[str, set[str]]:
    """A noun phrase such as "a small red ball with stripes" and the attributes it pins down."""
    size_said, colour_said = rng.random() < 0.7, rng.random() < 0.96
    texture_said = rng.random() < (0.2 if thing.texture == "plain" else 0.88)
    words, after = [], ""
    said = {f"{name}.shape"}
    if size_said:
        words.append(_pick(rng, _SIZE_WORDS[thing.size]))
        said.add(f"{name}.size")
    if colour_said:
        words.append(_pick(rng, _COLOUR_WORDS[thing.colour]))
        said.add(f"{name}.colour")
    if texture_said:
        said.add(f"{name}.texture")
        if rng.random() < 0.65:
            place = int(rng.integers(len(words) + 1))
            words.insert(place, _pick(rng, _TEXTURE_BEFORE[thing.texture]))
        else:
            after = " " + _pick(rng, _TEXTURE_AFTER[thing.texture])
    words.append(_pick(rng, _SHAPE_WORDS[thing.shape]))
    return _article(" ".join(words)) + after, said


def _subject(scene: Scene, rng: np.random.Generator) -> tuple[str, set[str]]:
    """The things and how they lie, and the attributes that this pins down."""
    first, said = _thing(scene.things[0], "a", rng)
    if len(scene.things) == 1:
        if rng.random() < 0.75:
            place = _pick(rng, _PLACE_WORDS[scene.layout])
            return f"{first} {place}", said | {"layout"}
        return first, said
    second, more = _thing(scene.things[1], "b", rng)
    said |= more | {"layout"}
    if rng.random() < 0.6:
        relation = _pick(rng, _RELATION_WORDS[scene.layout])
        joint = ", which is " if rng.random() < 0.08 else " "
        return f"{first}{joint}{relation} {second}", said
    return f"{second} {_pick(rng, _REVERSED_WORDS[scene.layout])} {first}", said


def caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """Describe a scene in random wording.

    Size, texture, colour, place and background may be left out; the relation of two things never
    is, since without it nobody could tell which of them is the first.

    Args:
        scene: the scene to describe.
        rng: source of the wording.
    """
    subject, said = _subject(scene, rng)
    said.add("count")
    if rng.random() < 0.1:
        return Caption(_dressed(subject, rng), scene, frozenset(said))
    said.add("background")
    behind = _pick(rng, _BACKGROUND_WORDS[scene.background])
    form = rng.random()
    if form < 0.6:
        text = f"{subject} {behind}"
    elif form < 0.75:
        text = f"{subject}, {behind}"
    elif form < 0.9:
        text = f"{behind}, {subject}"
    else:
        text = f"{behind} there {'is' if len(scene.things) == 1 else 'are'} {subject}"
        return Caption(text, scene, frozenset(said))
    return Caption(_dressed(text, rng), scene, frozenset(said))


def _dressed(text: str, rng: np.random.Generator) -> str:
    """Now and then an opening, a full stop or a capital letter."""
    if rng.random() < 0.25 and text.startswith(("a ", "an ")):
        text = _OPENINGS[int(rng.integers(len(_OPENINGS)))] + text
    if rng.random() < 0.15:
        text = text[0].upper() + text[1:]
    return text + "." if rng.random() < 0.12 else text
