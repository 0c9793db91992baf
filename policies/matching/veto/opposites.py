"""Words with an opposite: "small" and "large", "day" and "night". An embedder puts the two next to each other."""

from collections import Counter

from policies.matching.veto.bindings import Bound, bind
from policies.matching.veto.words import Text, head_after

_PAIRS = (
    ("small little tiny miniature", "large big huge giant gigantic enormous massive"),
    ("short", "long tall"),
    ("thin slim skinny", "thick fat"),
    ("young", "old elderly"),
    ("man male boy", "woman female girl"),
    ("day daytime", "night nighttime"),
    ("summer", "winter"),
    ("open", "closed shut"),
    ("full", "empty"),
    ("happy", "sad unhappy"),
    ("smiling", "frowning"),
    ("sitting seated", "standing"),
    ("wet", "dry"),
    ("hot", "cold"),
    ("clean", "dirty"),
    ("ancient", "modern futuristic"),
    ("indoor indoors", "outdoor outdoors"),
)
_OPPOSITE = {sides[way].split()[0]: sides[1 - way].split()[0] for sides in _PAIRS for way in (0, 1)}
_MEANS = {word: side.split()[0] for sides in _PAIRS for side in sides for word in side.split()}
_MEANS |= {f"{word}s": meaning for word, meaning in _MEANS.items()} | {"men": "man", "women": "woman"}
_KNOWN = frozenset(_MEANS)


def read(text: Text) -> Bound:
    """Return the words of a prompt that have an opposite, one for synonyms, bound to what they are said of."""
    words = text.words
    if _KNOWN.isdisjoint(text.vocabulary):
        return Bound()
    found = [(_MEANS[word], place) for place, word in enumerate(words) if word in _KNOWN]
    return bind((meaning, [head_after(words, place + 1)]) for meaning, place in found)


def conflict(one: Bound, other: Bound) -> bool:
    """Return whether one prompt has more of a word and less of its opposite, as a whole or of a noun of both."""
    if _opposed(Counter(one.values), Counter(other.values)):
        return True
    known = dict(one.nouns)
    return any(noun in known and _opposed(Counter(known[noun]), Counter(found)) for noun, found in other.nouns)


def _opposed(one: Counter[str], other: Counter[str]) -> bool:
    return not (one - other).keys().isdisjoint(_OPPOSITE[word] for word in other - one)
