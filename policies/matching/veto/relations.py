"""How two things lie to each other, and which is which: "A left of B" is "B right of A", and not "B left of A"."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from policies.matching.veto.words import Text, content, is_mark, word_set

_RELATION = re.compile(
    r"\b(?:(?:to|on|at|in) )?(?:the )?(?:(?P<y>above|over|below|under|upper|lower|top|bottom) (?:and )?(?:to )?"
    r"(?:the )?)?"
    r"(?P<x>left|right)(?: hand)?(?: side)? of\b"
    r"|(?<!from )\b(?P<up>on top of|atop|above|over)\b|(?<!from )\b(?P<down>below|underneath|beneath|under)\b"
    r"|\b(?P<front>in front of)\b|(?<!from )\b(?P<behind>behind)\b|\b(?P<inside>inside of|inside|within)\b"
)
_TRIGGERS = word_set("left right top atop above over below underneath beneath under front behind inside within")
_ACROSS = {"left": -1, "right": 1}
_UP = {"above": 1, "over": 1, "upper": 1, "top": 1, "below": -1, "under": -1, "lower": -1, "bottom": -1}
_PLAIN = {
    "up": (0, 1, 0, 0), "down": (0, -1, 0, 0), "front": (0, 0, 1, 0), "behind": (0, 0, -1, 0), "inside": (0, 0, 0, 1),
}  # fmt: skip
# "On the left of the picture" is a side, not a relation.
_PICTURE = word_set("picture image frame photo painting scene canvas screen")
_BREAKS_BEFORE = frozenset({"and", "while", "but"})
_BREAKS_AFTER = word_set("and while but in on at by against among near from to into during who which that with")
_REACH = 8

Direction = tuple[int, int, int, int]
"""Across, up, forward, inward: each -1, 0 or 1, of the first thing as seen from the second."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Two things, as the words said of them, and how the first lies to the second; never the reverse of another."""

    first: frozenset[str]
    direction: Direction
    second: frozenset[str]


def read(text: Text) -> frozenset[Relation]:
    """Return the relations of a prompt, all turned the same way round."""
    if _TRIGGERS.isdisjoint(text.vocabulary):
        return frozenset()
    line = " ".join(text.all_words)
    matches = list(_RELATION.finditer(line))
    relations = set()
    for place, match in enumerate(matches):
        start = matches[place - 1].end() if place else 0
        end = matches[place + 1].start() if place + 1 < len(matches) else len(line)
        first, second = _before(line[start : match.start()]), _after(line[match.end() : end])
        if not second <= _PICTURE or not second:
            relations.add(_turned(first, _direction(match), second))
    return frozenset(relations)


def conflict(one: frozenset[Relation], other: frozenset[Relation]) -> bool:
    """Return whether two things of both lie otherwise to each other; a relation more is no contradiction."""
    a, b = one - other, other - one
    single = len(one) == len(other) == 1
    return any(_contradict(x, y, _matched_single if single else _matched) for x in a for y in b)


def _contradict(a: Relation, b: Relation, matched: Callable[[int, int], bool]) -> bool:
    """Compare directions the way round in which the things of the two are more alike; a tie says nothing."""
    straight = len(a.first & b.first), len(a.second & b.second)
    crossed = len(a.first & b.second), len(a.second & b.first)
    if sum(straight) > sum(crossed):
        return matched(*straight) and a.direction != b.direction
    if sum(crossed) > sum(straight):
        return matched(*crossed) and a.direction != _reverse(b.direction)
    return False


def _matched(first: int, second: int) -> bool:
    return first > 0 and second > 0


def _matched_single(first: int, second: int) -> bool:
    return first > 0 or second > 0


def _direction(match: re.Match[str]) -> Direction:
    if match["x"]:
        return _ACROSS[match["x"]], _UP.get(match["y"], 0), 0, 0
    return _PLAIN[match.lastgroup or "up"]


def _reverse(direction: Direction) -> Direction:
    across, up, forward, inward = direction
    return -across, -up, -forward, -inward


def _turned(first: frozenset[str], direction: Direction, second: frozenset[str]) -> Relation:
    """The relation seen from the side from which it is "left of", "above", "in front of" or "inside"."""
    across, up, forward, inward = direction
    if (-across, up, forward, inward) < (0, 0, 0, 0):
        return Relation(second, _reverse(direction), first)
    return Relation(first, direction, second)


def _before(line: str) -> frozenset[str]:
    """The words of the first thing: back to where the part of the sentence begins."""
    words = [word for word in line.replace(", which", "").split() if word not in ("which", "that")]
    part: list[str] = []
    for word in reversed(words):
        if is_mark(word) or word in _BREAKS_BEFORE or len(part) >= _REACH:
            break
        part.append(word)
    return content(part)


def _after(line: str) -> frozenset[str]:
    """The words of the second thing: to where its phrase ends."""
    part: list[str] = []
    for word in line.split()[: _REACH + 4]:
        if is_mark(word) or (word in _BREAKS_AFTER and part):
            break
        part.append(word)
    return content(part)
