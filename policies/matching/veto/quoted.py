"""Text to be written in the picture."""

from collections import Counter

from policies.matching.veto.words import Text

Quotations = frozenset[tuple[str, int]]


def read(text: Text) -> Quotations:
    """Return the texts in quotation marks, letter for letter but for white space, and how often each occurs."""
    return frozenset(Counter(" ".join(quotation.split()) for quotation in text.quotations).items())


def conflict(one: Quotations, other: Quotations) -> bool:
    """Return whether the two quote different texts."""
    return one != other
