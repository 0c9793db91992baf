"""Which colour, and of what."""

from collections.abc import Iterator, Sequence

from policies.matching.veto.bindings import Bound, bind, bound_otherwise, contradicts
from policies.matching.veto.words import COLOURS, Text, head_after, noun_before

_JOINTS = frozenset({"and", "or", ",", "&"})


def read(text: Text) -> Bound:
    """Return the colours of a prompt, one name for synonyms, bound to the nouns they colour.

    "A red ball", "a ball that is red" and "a ball painted crimson" read the same.
    """
    return bind(_colours(text.words))


def conflict(one: Bound, other: Bound) -> bool:
    """Return whether the two contradict: each has a colour the other lacks, or a noun of both is coloured otherwise.

    A colour more is no contradiction: prompts are refined that way, and a rewording may drop "green" before "grass".
    """
    return contradicts(one, other) or bound_otherwise(one, other)


def _colours(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(colour, noun) in order."""
    place = 0
    while place < len(words):
        if words[place] not in COLOURS:
            place += 1
            continue
        run, end = _run(words, place)
        noun = head_after(words, end) or noun_before(words, place)
        yield from ((colour, noun) for colour in run)
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
