"""Who, and which place: capitalised words inside a sentence."""

from dataclasses import dataclass

from policies.matching.veto.words import Text, is_mark, singular, word_set

# Capitalised in many prompts, and naming a manner or a machine, not what is to be seen.
_MANNERS = word_set(
    "i dslr hd uhd hdr rtx imax cgi cg ai tv vr artstation deviantart pixiv behance cgsociety unreal engine octane "
    "render blender vray nikon canon sony kodak leica fujifilm polaroid trending unsplash instagram hq pbr"
)
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
    inside = [
        token
        for before, token in zip(text.tokens, text.tokens[1:], strict=False)
        if not is_mark(before) and token[0].isalpha()
    ]
    capitalised = [token for token in inside if token[0].isupper()]
    if len(inside) >= _MANY and len(capitalised) > _TITLE_CASE * len(inside):
        capitalised = []
    names = frozenset(singular(token.lower()) for token in capitalised) - _MANNERS
    return Names(names, frozenset(singular(word) for word in text.words))


def conflict(one: Names, other: Names) -> bool:
    """Return whether each has a name that the other does not have, in lower case either; one more is no conflict."""
    return not (one.names <= other.words or other.names <= one.words)
