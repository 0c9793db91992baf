"""Text to be written in the picture."""

from collections import Counter

from policies.matching.veto.words import QUOTED, Text

Quotations = frozenset[tuple[str, int]]


def read(text: Text) -> Quotations:
    """Return the texts in quotation marks, letter for letter but for white space, and how often each occurs."""
    groups = (next(part for part in match if part) for match in QUOTED.findall(text.prompt))
    return frozenset(Counter(" ".join(quotation.split()) for quotation in groups).items())


def conflict(one: Quotations, other: Quotations) -> bool:
    """Return whether the two quote different texts."""
    return one != other
