"""A lexical veto: words that change a picture's meaning but hardly move its embedding.

Every kind reads a prompt by itself and compares what it read: a veto is symmetric, and never true of equal prompts.
Kinds whose absence means something (a count, a negation, a quotation) must be equal; of the others only what
contradicts counts, since prompts are refined by adding words.
"""

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any

from policies.matching.veto import colours, names, negation, numbers, opposites, quoted, relations, sides
from policies.matching.veto.words import Text


@dataclass(frozen=True, slots=True)
class _Kind:
    read: Callable[[Text], Hashable]
    conflict: Callable[[Any, Any], bool]  # of what `read` returns


_KINDS = {
    "numbers": _Kind(numbers.read, numbers.conflict),
    "negation": _Kind(negation.read, negation.conflict),
    "quoted": _Kind(quoted.read, quoted.conflict),
    "colours": _Kind(colours.read, colours.conflict),
    "sides": _Kind(sides.read, sides.conflict),
    "relations": _Kind(relations.read, relations.conflict),
    "names": _Kind(names.read, names.conflict),
    "opposites": _Kind(opposites.read, opposites.conflict),
}
KINDS = frozenset(_KINDS)
"""The kinds of words that can be read."""

Reading = tuple[Hashable, ...]
"""What the kinds asked for, in the order of their names, read in a prompt."""


def checked_kinds(kinds: Collection[str]) -> frozenset[str]:
    """Return `kinds` as a set.

    Raises:
        ValueError: one of them is unknown; the message names it and those that exist.
    """
    unknown = sorted(set(kinds) - KINDS)
    if unknown:
        raise ValueError(f"unknown kind of veto {unknown[0]!r}; known: {', '.join(_KINDS)}")
    return frozenset(kinds)


def read(prompt: str, kinds: frozenset[str] = KINDS) -> Reading:
    """Return what a veto by `kinds` compares of `prompt`; equal readings never part two prompts."""
    text = Text(prompt)
    return tuple(kind.read(text) for name, kind in _KINDS.items() if name in kinds)


def says_nothing(reading: Reading) -> bool:
    """Return whether the prompt has no words of the kinds that were read."""
    return not any(reading)


def conflicts(one: Reading, other: Reading, kinds: frozenset[str] = KINDS) -> tuple[str, ...]:
    """Return the kinds in which two readings by the same `kinds` contradict each other."""
    if one == other:
        return ()
    parts = zip((name for name in _KINDS if name in kinds), one, other, strict=True)
    return tuple(name for name, a, b in parts if a != b and _KINDS[name].conflict(a, b))


def veto_reasons(prompt: str, other: str, kinds: frozenset[str] = KINDS) -> tuple[str, ...]:
    """Return the kinds of words in which two prompts contradict each other, in a fixed order.

    "numbers": counts, or what is counted. "negation": what is not to be seen. "quoted": text to be written.
    "colours": a colour, or what has it. "sides": where in the picture. "relations": how two things lie to each other,
    and which is which. "names": capitalised names. "opposites": a word against its opposite.
    """
    return conflicts(read(prompt, kinds), read(other, kinds), kinds)


def lexical_veto(prompt: str, other: str, kinds: frozenset[str] = KINDS) -> bool:
    """Return whether `prompt` must not resume from a picture of `other`, judged by `kinds`.

    Symmetric, and never true of equal prompts.
    """
    return bool(veto_reasons(prompt, other, kinds))


__all__ = [
    "KINDS",
    "Reading",
    "checked_kinds",
    "conflicts",
    "lexical_veto",
    "read",
    "says_nothing",
    "veto_reasons",
]
