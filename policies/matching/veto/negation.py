"""What is not to be seen."""

import re
from collections.abc import Iterator, Sequence

from policies.matching.veto.words import STOPS, Text, head_after, is_mark, singular, word_set

_NEGATORS = word_set("no not without never none nothing nobody neither nor except minus zero sans lacking cannot")
# Two words that negate together; the first alone does not.
_PHRASES = {"instead": "of", "rather": "than", "free": "of", "devoid": "of", "lack": "of", "empty": "of"}
_IDIOMS = frozenset({("not", "only"), ("not", "just"), ("nothing", "but"), ("no", "matter"), ("or", "not")})
_FILLERS = word_set("a an the any of in on for is are being single")
_FREE = re.compile(r"(\w+)\s?[-‑]\s?free\b")
_NOT = re.compile(r"n['’]t\b", re.IGNORECASE)
_LESS = {
    f"{thing}less": thing
    for thing in word_set("cloud leaf tree window text head face hair tooth wing wheel shirt sleeve strap moon star")
}
_TRIGGERS = _NEGATORS | _PHRASES.keys() | _LESS.keys()


def read(text: Text) -> frozenset[str]:
    """Return what a prompt negates, in the singular; "" where it does not say what ("nobody").

    "Without trees or people", "no trees, no people" and "neither trees nor people" read the same; so do "a cloudless
    sky", "a sky free of clouds" and "a cloud-free sky".
    """
    if _TRIGGERS.isdisjoint(text.vocabulary) and not _NOT.search(text.prompt):
        return frozenset()
    free = (singular(thing) for thing in _FREE.findall(text.prompt.lower())) if "free" in text.vocabulary else ()
    return frozenset([*_negated(text.all_words), *free])


def conflict(one: frozenset[str], other: frozenset[str]) -> bool:
    """Return whether the two negate different things."""
    return one != other


def _negated(words: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        following = words[place + 1] if place + 1 < len(words) else ""
        if word in _LESS:
            yield _LESS[word]
        elif _PHRASES.get(word) == following and following:
            yield from _things(words, place + 2)
        elif word in _NEGATORS or word.endswith(("n't", "n’t")):
            before = words[place - 1] if place else ""
            if (word, following) not in _IDIOMS and (before, word) not in _IDIOMS:
                yield from _things(words, place + 1)


def _things(words: Sequence[str], place: int) -> Iterator[str]:
    """The things listed from `place` on: "any trees or people"."""
    while True:
        while place < len(words) and words[place] in _FILLERS:
            place += 1
        yield head_after(words, place)
        while place < len(words) and words[place] not in STOPS and not is_mark(words[place]):
            place += 1
        if place >= len(words) or words[place] != "or":
            return
        place += 1
