"""How many, and of what."""

import re
from collections.abc import Iterator, Sequence

from policies.matching.veto.bindings import Bound, bind, bound_otherwise
from policies.matching.veto.words import Text, head_after, word_set

_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_ONES = {
    "one": 1, "two": 2, "both": 2, "pair": 2, "couple": 2, "duo": 2, "twin": 2, "three": 3, "trio": 3, "four": 4,
    "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13,
    "fourteen": 14, "fifteen": 15, "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90,
}  # fmt: skip
_SCALES = {"dozen": 12, "hundred": 100, "thousand": 1000, "million": 1_000_000}
_NUMBER_WORDS = frozenset(_ONES.keys() | _TENS.keys() | _SCALES.keys())
# A pair of these is one thing.
_PAIRED = word_set(
    "glasses sunglasses spectacles goggles pants trousers jeans shorts scissors headphones binoculars tights"
)
# Said or not, it is the same: a star has five points, and a "three quarters view" is a view.
_USUAL = frozenset({("5", "pointed"), ("3", "quarter"), ("3", "quarters")})
# "one circle" and "a circle" ask for the same picture.
_SAME_AS_NONE = frozenset({"1"})


def read(text: Text) -> Bound:
    """Return the counts and numbers of a prompt as digits, bound to what is counted; a 1 counts as nothing said.

    Words count ("three", "two dozen", "twenty-five"); resolutions, dimensions and lenses ("8k", "3d", "50mm") do not.
    """
    if _NUMBER_WORDS.isdisjoint(text.vocabulary) and not _DIGITS.search(text.prompt):
        return Bound()
    return bind(_numbers(text.all_words), _SAME_AS_NONE)


def conflict(one: Bound, other: Bound) -> bool:
    """Return whether other numbers are named, or the same ones of other things."""
    return one.values != other.values or bound_otherwise(one, other)


def _numbers(words: Sequence[str]) -> Iterator[tuple[str, tuple[str]]]:
    """(number, noun) in order."""
    place = 0
    while place < len(words):
        word = words[place]
        if word in _NUMBER_WORDS:
            number, place = _spelled(words, place)
            if number and not _is_usual(number, words, place):
                yield str(number), (_counted(words, place),)
            continue
        place += 1
        found = _DIGITS.findall(word.replace(",", ""))
        if found:
            following = _SCALES.get(words[place], 1) if place < len(words) else 1
            place += following > 1
            if following > 1 or not _is_usual(found[0], words, place):
                yield from ((_scaled(digits, following), (_counted(words, place),)) for digits in found)


def _is_usual(number: int | str, words: Sequence[str], place: int) -> bool:
    return place < len(words) and (str(number), words[place]) in _USUAL


def _spelled(words: Sequence[str], place: int) -> tuple[int, int]:
    """The number whose words begin at `place` (0 = it counts nothing), and where they end."""
    word = words[place]
    if word == "pair" and not _PAIRED.isdisjoint(words[place + 1 : place + 5]):
        return 0, place + 1
    value = _ONES.get(word) or _TENS.get(word) or 1
    half = word == "dozen" and words[max(0, place - 2) : place] == ["half", "a"]
    if word in _SCALES:
        return _SCALES[word] // (2 if half else 1), place + 1
    place += 1
    if word in _TENS and place < len(words) and _ONES.get(words[place], 10) < 10:
        value, place = value + _ONES[words[place]], place + 1
    if place < len(words) and words[place] in _SCALES:
        value, place = value * _SCALES[words[place]], place + 1
    return value, place


def _scaled(digits: str, factor: int) -> str:
    if "." in digits:
        return digits
    return str(int(digits) * factor)


def _counted(words: Sequence[str], place: int) -> str:
    """What is counted, after "two", "a pair of" or "both the"."""
    while place < len(words) and words[place] in ("of", "the"):
        place += 1
    return head_after(words, place)
