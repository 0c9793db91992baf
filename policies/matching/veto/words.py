"""Prompts as words, and which noun a word nearby belongs to: rules of thumb, no parser."""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|「([^」]+)」|(?<!\w)['‘]([^'’]+)['’](?!\w)")
_MARKS = re.compile(r"[\"“«„「'‘]")
_TOKEN = re.compile(r"[^\W\d_][^\W_]*(?:['’][^\W\d_]+)?|\d+(?:[.,]\d+)*[^\W_]*|[,.;:!?()|/\[\]]")
_DIGIT = re.compile(r"\d")
# Some logs put a space between all digits ("1 9 7 0 s, 8 k").
_SPACED_DIGITS = re.compile(r"\b\d(?: \d)+\b")
# Resolutions, dimensions, fractions (a "3/4 view"), lenses, weights of a word and command-line flags: they count
# nothing in the picture.
_TAG = re.compile(
    r"--\w+(?:\s+[\d.:]+)?|\b\d+\s?(?:[kpd]|mm|fps|mp)\b|\b\d\s?/\s?\d\b|\bf\s?/\s?\d+(?:\.\s?\d+)?|\biso\s?\d+|:\d+(?:\.\d+)?(?=\s*\))",
    re.IGNORECASE,
)


def word_set(words: str) -> frozenset[str]:
    """Return the words of a line, split at white space."""
    return frozenset(words.split())


DETERMINERS = word_set("a an the this that these those its his her their my your our some any each every another")
STOPS = DETERMINERS | word_set(
    "of in on at by with without from to into onto over under above below beneath underneath behind between beside "
    "near next inside outside within against among around through across along during for as like toward towards up "
    "down off out atop via than and or nor but while where when who which is are was were be being been has have had "
    "it them him they he she there not no"
)
COLOURS = {
    "red": "red", "crimson": "red", "scarlet": "red", "orange": "orange", "yellow": "yellow", "green": "green",
    "cyan": "cyan", "turquoise": "cyan", "teal": "cyan", "aqua": "cyan", "blue": "blue", "navy": "blue",
    "azure": "blue", "purple": "purple", "violet": "purple", "pink": "pink", "rosy": "pink", "magenta": "magenta",
    "white": "white", "black": "black", "grey": "grey", "gray": "grey", "brown": "brown", "beige": "beige",
    "gold": "gold", "golden": "gold", "silver": "silver",
}  # fmt: skip
_SIZES = {"little": "small", "tiny": "small", "big": "large", "huge": "large"}
# After a noun, these belong to what follows: "a ball left of …".
_NO_NOUNS = frozenset({*COLOURS, "left", "right"})
_IRREGULAR = {
    "men": "man", "women": "woman", "children": "child", "geese": "goose", "mice": "mouse", "feet": "foot",
    "teeth": "tooth", "leaves": "leaf", "wolves": "wolf", "knives": "knife", "shelves": "shelf", "gloves": "glove",
}  # fmt: skip
_NOUNS_IN_ING = word_set(
    "ring king wing string thing spring building painting clothing evening morning ceiling wedding lightning drawing "
    "railing earring sling swing"
)
# Between a noun and what is said of it: "a car painted deep red".
_LINKS = STOPS | word_set(
    "painted coloured colored dyed colour color light dark deep bright pale vivid neon very all"
)


class Text:
    """A prompt and its words.

    Attributes:
        prompt: the text itself.
        quotations: the texts in quotation marks.
        all_words: words and punctuation in lower case, without technical tags; quoted text too.
        words: the same without quoted text.
        vocabulary: the set of `all_words`, to see at a glance that there is nothing to read.
    """

    __slots__ = ("_untagged", "all_words", "prompt", "quotations", "vocabulary", "words")

    def __init__(self, prompt: str) -> None:
        self.prompt = prompt
        self._untagged = _without_tags(prompt) if _DIGIT.search(prompt) else prompt
        self.quotations = _quotations(prompt) if _MARKS.search(prompt) else []
        self.all_words: list[str] = _TOKEN.findall(self._untagged.lower())
        self.words = [token.lower() for token in self.tokens()] if self.quotations else self.all_words
        self.vocabulary = frozenset(self.all_words)

    def tokens(self) -> list[str]:
        """Return the words and punctuation in their own case, without quoted text."""
        return _TOKEN.findall(QUOTED.sub(" , ", self._untagged) if self.quotations else self._untagged)


def _quotations(prompt: str) -> list[str]:
    return [next(part for part in match if part) for match in QUOTED.findall(prompt)]


def _without_tags(prompt: str) -> str:
    joined = _SPACED_DIGITS.sub(lambda match: match[0].replace(" ", ""), prompt)
    return _TAG.sub(" ", joined)


def is_mark(word: str) -> bool:
    """Tell whether a token is punctuation."""
    return not word[0].isalnum()


# Prompts share most of their words.
@lru_cache(maxsize=4096)
def singular(word: str) -> str:
    """Return `word` without a plural or possessive ending; wrong at times, but the same each time."""
    word = word.removesuffix("'s").removesuffix("’s")
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-2] if word.endswith(("xes", "ches", "shes", "sses")) else word[:-1]


def basic(word: str) -> str:
    """Return one spelling for a colour or size of several names, and the singular of other words."""
    return COLOURS.get(word) or _SIZES.get(word) or singular(word)


def content(words: Iterable[str]) -> frozenset[str]:
    """Return the basic forms of the words that are neither punctuation nor grammar."""
    return frozenset(basic(word) for word in words if word not in STOPS and not is_mark(word))


def head_after(words: Sequence[str], start: int, limit: int = 4) -> str:
    """Return the head noun of the phrase that goes on at `start` ("rubber ball on …" -> ball), or ""."""
    phrase = phrase_after(words, start, limit)
    return phrase[-1] if phrase else ""


def phrase_after(words: Sequence[str], start: int, limit: int = 4) -> list[str]:
    """Return the words of the phrase that goes on at `start`, its head noun last ("rubber ball on …")."""
    end = start
    while end < min(start + limit, len(words)):
        word = words[end]
        if word in STOPS or is_mark(word) or (end > start and (word in _NO_NOUNS or _is_verb(words, end))):
            break
        end += 1
    return [singular(word) for word in words[start:end]]


def noun_before(words: Sequence[str], end: int, limit: int = 6) -> str:
    """Return the noun that a word at `end` is said of ("a ball that is …" -> ball), or ""."""
    for word in reversed(words[max(0, end - limit) : end]):
        if is_mark(word) and word != ",":
            break
        if word not in _LINKS and not is_mark(word):
            return singular(word)
    return ""


def _is_verb(words: Sequence[str], place: int) -> bool:
    """Tell whether a word after a noun is likely to be a participle, which no longer belongs to it."""
    word = words[place]
    if word.endswith("ing"):
        return word not in _NOUNS_IN_ING
    ends_phrase = place + 1 == len(words) or words[place + 1] in STOPS or is_mark(words[place + 1])
    return word.endswith("ed") and ends_phrase
