"""Who, and which place: capitalised words inside a sentence."""

import itertools
import re
from dataclasses import dataclass

from policies.matching.veto.words import Text, is_mark, word_set

# Capitalised in many prompts, and naming a manner or a machine, not what is to be seen.
_MANNERS = word_set(
    "i dslr hd uhd hdr rtx imax cgi cg ai tv vr artstation deviantart pixiv behance cgsociety unreal engine octane "
    "render blender vray nikon canon sony kodak leica fujifilm polaroid trending unsplash instagram hq pbr"
)
_CAPITAL = re.compile(r"[^\W\d_a-z]")
_POSSESSIVE = ("'s", "’s")
_MANY = 5
_TITLE_CASE = 0.7


@dataclass(frozen=True, slots=True)
class Names:
    """The names of a prompt, and all its words, in lower case."""

    names: frozenset[str]
    words: frozenset[str]

    def __bool__(self) -> bool:
        return bool(self.names)


def read(text: Text) -> Names:
    """Return the capitalised words that do not begin a sentence or a part of it; none of a text in title case."""
    words = text.vocabulary | {_name(word) for word in text.vocabulary if word.endswith(_POSSESSIVE)}
    if not _CAPITAL.search(text.prompt, 1):
        return Names(frozenset(), words)
    inside = [
        token for before, token in itertools.pairwise(text.tokens()) if not is_mark(before) and token[0].isalpha()
    ]
    capitalised = [token for token in inside if token[0].isupper()]
    if len(inside) >= _MANY and len(capitalised) > _TITLE_CASE * len(inside):
        capitalised = []
    names = frozenset(_name(token.lower()) for token in capitalised) - _MANNERS
    return Names(names, words)


def conflict(one: Names, other: Names) -> bool:
    """Return whether each has a name that the other does not have, in lower case either; one more is no conflict."""
    return not (one.names <= other.words or other.names <= one.words)


def _name(word: str) -> str:
    return word[:-2] if word.endswith(_POSSESSIVE) else word
