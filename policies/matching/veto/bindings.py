"""Values a prompt names, and the nouns they are said of: what numbers and colours have in common."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Bound:
    """Values of one kind in a prompt.

    Attributes:
        values: every value, sorted, as often as it is named.
        nouns: for each noun that has any, sorted by noun: its values.
    """

    values: tuple[str, ...] = ()
    nouns: tuple[tuple[str, frozenset[str]], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.values)


def bind(pairs: Iterable[tuple[str, Iterable[str]]], uncounted: frozenset[str] = frozenset()) -> Bound:
    """Return the values of (value, nouns) pairs; "" is no noun, and values of `uncounted` are only bound."""
    values: list[str] = []
    nouns: dict[str, set[str]] = {}
    for value, said_of in pairs:
        if value not in uncounted:
            values.append(value)
        for noun in filter(None, said_of):
            nouns.setdefault(noun, set()).add(value)
    return Bound(tuple(sorted(values)), tuple(sorted((noun, frozenset(found)) for noun, found in nouns.items())))


def bound_otherwise(one: Bound, other: Bound) -> bool:
    """Return whether a noun of both has values that contradict: neither's contain the other's."""
    known = dict(one.nouns)
    return any(noun in known and not (known[noun] <= found or found <= known[noun]) for noun, found in other.nouns)


def contradicts(one: Bound, other: Bound) -> bool:
    """Return whether the values themselves contradict: each prompt names one that the other does not."""
    a, b = Counter(one.values), Counter(other.values)
    return not (a <= b or b <= a)
