"""Which colour, and of what."""

from collections.abc import Iterator, Sequence

from policies.matching.veto.bindings import Bound, bind, bound_otherwise, contradicts
from policies.matching.veto.words import COLOURS, Text, basic, noun_before, phrase_after, word_set

# Words before a colour that tell one thing of a kind from another.
_TELLING = word_set("two three four five six seven eight nine ten small little tiny large big huge")
_JOINTS = frozenset({"and", "or", ",", "&"})


def read(text: Text) -> Bound:
    """Return the colours of a prompt, one name for synonyms, bound to the nouns they colour.

    The other words of the same phrase count as nouns, too: they tell "a brown trash bin" from "a blue recycling bin".
    "A red ball", "a ball that is red" and "a ball painted crimson" read the same.
    """
    return Bound() if COLOURS.keys().isdisjoint(text.vocabulary) else bind(_colours(text.words))


def conflict(one: Bound, other: Bound) -> bool:
    """Return whether the two contradict: each has a colour the other lacks, or a noun of both is coloured otherwise.

    A colour more is no contradiction: prompts are refined that way, and a rewording may drop "green" before "grass".
    """
    return contradicts(one, other) or bound_otherwise(one, other)


def _colours(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """(colour, what it is said of) in order."""
    place = 0
    while place < len(words):
        if words[place] not in COLOURS:
            place += 1
            continue
        run, end = _run(words, place)
        nouns = phrase_after(words, end) or [noun_before(words, place)]
        # "Three small yellow boxes on a large blue box".
        nouns += [basic(word) for word in words[max(0, place - 2) : place] if word in _TELLING]
        yield from ((colour, nouns) for colour in run)
        place = end


def _run(words: Sequence[str], place: int) -> tuple[list[str], int]:
    """Colours that share a noun ("red, white and blue", "golden yellow" is one), and where they end."""
    run: list[str] = []
    while place < len(words) and words[place] in COLOURS:
        following = words[place + 1] if place + 1 < len(words) else ""
        if words[place] not in ("golden", "gold") or following not in COLOURS:
            run.append(COLOURS[words[place]])
        place += 1
        joint = place
        while joint < len(words) and words[joint] in _JOINTS:
            joint += 1
        if joint < len(words) and words[joint] in COLOURS:
            place = joint
    return run, place
