"""From a caption back to the scene: the grammar of `captions`, read the other way."""

from __future__ import annotations

import re
from collections.abc import Mapping

from training.scenes import captions as words
from training.scenes.captions import Caption
from training.scenes.spec import Scene, Thing

_UNSAID = {"shape": "ball", "colour": "red", "size": "small", "texture": "plain"}
_UNSAID_PLACE, _UNSAID_BACKGROUND = "centre", "studio"


def read_caption(text: str) -> Caption | None:
    """Return what `caption` would have been asked to say for `text`; None if it never says such a thing.

    What the text leaves open is filled in somehow, and not among `mentioned`.
    """
    rest = text.lower().strip().removesuffix(".")
    for opening in words._OPENINGS:
        rest = rest.removeprefix(opening)
    background, rest = _take(rest, words._BACKGROUND_WORDS)
    rest = re.sub(r"^\s*,?\s*there (is|are)\b|^\s*,|,\s*$", " ", rest).strip()
    pair = _two_things(rest)
    if pair is not None:
        first, second, layout, said = pair
        scene = Scene((first, second), layout, background or _UNSAID_BACKGROUND)
    else:
        place, rest = _take_end(rest, words._PLACE_WORDS)
        one = _thing(rest, "a")
        if one is None:
            return None
        thing, said = one
        said |= {"layout"} if place else set()
        scene = Scene((thing,), place or _UNSAID_PLACE, background or _UNSAID_BACKGROUND)
    said |= {"count"} | ({"background"} if background else set())
    return Caption(text, scene, frozenset(said))


def _phrases(table: Mapping[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """(phrase, meaning), longest first."""
    pairs = [(phrase, meaning) for meaning, phrases in table.items() for phrase in phrases]
    return sorted(pairs, key=lambda pair: -len(pair[0]))


def _take(text: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str | None, str]:
    """Cut the phrase that starts or ends `text`; return its meaning and the rest."""
    for phrase, meaning in _phrases(table):
        if text.endswith(" " + phrase):
            return meaning, text[: -len(phrase)].rstrip()
        if text.startswith((phrase + " ", phrase + ",")):
            return meaning, text[len(phrase) :].lstrip()
    return None, text


def _take_end(text: str, table: Mapping[str, tuple[str, ...]]) -> tuple[str | None, str]:
    for phrase, meaning in _phrases(table):
        if text.endswith(" " + phrase):
            return meaning, text[: -len(phrase)].rstrip()
    return None, text


def _two_things(text: str) -> tuple[Thing, Thing, str, set[str]] | None:
    straight, turned = _phrases(words._RELATION_WORDS), _phrases(words._REVERSED_WORDS)
    every = [(phrase, layout, False) for phrase, layout in straight] + [(p, layout, True) for p, layout in turned]
    for phrase, layout, swapped in sorted(every, key=lambda one: -len(one[0])):
        left, found, right = text.partition(f" {phrase} ")
        if not found:
            continue
        left = left.removesuffix(", which is")
        names = ("b", "a") if swapped else ("a", "b")
        one, other = _thing(left, names[0]), _thing(right, names[1])
        if one is None or other is None:
            continue
        said = one[1] | other[1] | {"layout"}
        first, second = (other[0], one[0]) if swapped else (one[0], other[0])
        return first, second, layout, said
    return None


def _thing(text: str, name: str) -> tuple[Thing, set[str]] | None:
    text = text.strip()
    if not text.startswith(("a ", "an ")):
        return None
    text = text.partition(" ")[2]
    texture, text = _take_end(text, words._TEXTURE_AFTER)
    shape, text = _take_end(" " + text, words._SHAPE_WORDS)
    if shape is None:
        return None
    found: dict[str, str] = {"shape": shape} | ({"texture": texture} if texture else {})
    tables = {"size": words._SIZE_WORDS, "colour": words._COLOUR_WORDS, "texture": words._TEXTURE_BEFORE}
    text = text.strip()
    while text:
        for kind, table in tables.items():
            meaning, rest = _take_end(" " + text, table)
            if meaning is not None and kind not in found:
                found[kind], text = meaning, rest.strip()
                break
        else:
            return None
    said = {f"{name}.{kind}" for kind in found}
    return Thing(**(_UNSAID | found)), said
