"""Where in the picture: "on the left", "in the upper right corner", "from above"."""

import re
from dataclasses import dataclass

from policies.matching.veto.words import STOPS, Text, content, is_mark, word_set

_PICTURE = r"(?: of the (?:picture|image|frame|photo|painting|scene|canvas|screen))?"
_CORNER = re.compile(
    r"\b(?:on|at|in|to|near|from|its|his|her|their|the|far|facing|looking|turned) (?:(?:the|its|his|her|their|far) )*"
    r"(?:(?P<y>upper|lower|top|bottom) )?(?P<x>left|right)\b(?: hand)?(?: side| corner| edge| half)?"
    + _PICTURE
    + r"(?! of)"
)
_EDGE = re.compile(
    r"\b(?:at|near|in|on|along) the (?:very )?"
    r"(?:(?P<y>top|bottom)(?: edge| half)?|(?P<part>upper|lower) (?:edge|part|half))"
    + _PICTURE
    + r"(?= (?P<next>\S+)|$)"
)
_MIDDLE = re.compile(r"\b(?:in|at) the (?:very )?(?:centre|center|middle)\b" + _PICTURE + r"(?! of)")
_VIEW = re.compile(r"\bfrom (?P<view>above|below|behind|underneath)\b")
_PATTERNS = (_CORNER, _EDGE, _MIDDLE, _VIEW)
_TRIGGERS = word_set("left right top bottom upper lower centre center middle above below behind underneath")
_ACROSS = {"left": -1, "right": 1}
_UP = {"upper": 1, "top": 1, "lower": -1, "bottom": -1}
_BREAKS = frozenset({"and", "with"})

Spot = tuple[int, int] | str
"""Across and up, each -1, 0 or 1; or from where it is seen."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A spot, and the words of what is there."""

    spot: Spot
    words: frozenset[str]


def read(text: Text) -> frozenset[Placed]:
    """Return the spots a prompt names, each with the words that go before it (after it, at the start of a part)."""
    if _TRIGGERS.isdisjoint(text.vocabulary):
        return frozenset()
    line = " ".join(text.all_words)
    found = sorted(
        (match for pattern in _PATTERNS for match in pattern.finditer(line) if _is_spot(match)),
        key=lambda match: (match.start(), -match.end()),
    )
    placed, end = set(), 0
    for match in found:
        if match.start() >= end:
            placed.add(Placed(_spot(match), _things(line[end : match.start()], line[match.end() :])))
            end = match.end()
    return frozenset(placed)


def conflict(one: frozenset[Placed], other: frozenset[Placed]) -> bool:
    """Return whether a thing of both is elsewhere; with one spot each the things need not be recognised.

    A spot that only one of the two names is no contradiction.
    """
    a, b = one - other, other - one
    if not (a and b):
        return False
    if len(one) == len(other) == 1:
        return {placed.spot for placed in one} != {placed.spot for placed in other}
    return any(_elsewhere(placed, other) for placed in a) or any(_elsewhere(placed, one) for placed in b)


def _elsewhere(placed: Placed, others: frozenset[Placed]) -> bool:
    """Whether all that resemble `placed` most are at other spots."""
    most = max(len(placed.words & other.words) for other in others)
    alike = [other for other in others if len(placed.words & other.words) == most]
    return most > 0 and all(other.spot != placed.spot for other in alike)


def _is_spot(match: re.Match[str]) -> bool:
    """Tell "at the top" from "at the top floor"."""
    if match.re is not _EDGE:
        return True
    following = match["next"]
    return following is None or is_mark(following) or (following in STOPS and following != "of")


def _spot(match: re.Match[str]) -> Spot:
    if match.re is _VIEW:
        return "from " + match["view"].replace("underneath", "below")
    if match.re is _CORNER:
        return _ACROSS[match["x"]], _UP.get(match["y"], 0)
    return (0, _UP[match["y"] or match["part"]]) if match.re is _EDGE else (0, 0)


def _things(before: str, after: str) -> frozenset[str]:
    part: list[str] = []
    for word in reversed(before.split()):
        if word in _BREAKS or is_mark(word):
            break
        part.append(word)
    things = content(part)
    if things:
        return things
    words = after.split()
    end = next((i for i, word in enumerate(words) if word in _BREAKS or (i and is_mark(word))), len(words))
    return content(words[:end])
