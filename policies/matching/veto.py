"""A lexical veto: words that change a picture's meaning but hardly move its embedding."""

import re
from collections import Counter

_QUALITY_TAG = re.compile(r"\b\d+[kp]\b")
_DIGITS = re.compile(r"\d+(?:\.\d+)?")
_WORD = re.compile(r"[^\W\d_]+(?:['’]t)?")
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|(?<!\w)['‘]([^'’]+)['’](?!\w)")

# "one" is absent on purpose: "one circle" and "a circle" ask for the same picture.
_NUMBER_WORDS = {
    "two": "2", "pair": "2", "couple": "2", "both": "2", "twin": "2", "three": "3", "trio": "3", "four": "4",
    "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10", "eleven": "11", "twelve": "12",
    "dozen": "12", "twenty": "20", "thirty": "30", "forty": "40", "fifty": "50", "hundred": "100", "thousand": "1000",
}  # fmt: skip
_NEGATORS = frozenset(
    {"no", "not", "without", "never", "none", "nothing", "nobody", "neither", "nor", "except", "minus"}
)
_FILLERS = frozenset({"a", "an", "the", "any", "of", "in", "on", "for", "is", "are"})


def numbers(prompt: str) -> Counter[str]:
    """Return the counts and numbers `prompt` names, as digits; 1 and quality tags such as "8k" do not count."""
    text = _QUALITY_TAG.sub(" ", prompt.lower())
    found = [match.lstrip("0") or "0" for match in _DIGITS.findall(text)]
    found += [_NUMBER_WORDS[word] for word in _WORD.findall(text) if word in _NUMBER_WORDS]
    return Counter(number for number in found if number != "1")


def negations(prompt: str) -> Counter[str]:
    """Return the words that `prompt` negates ("without any trees" -> trees)."""
    words = _WORD.findall(prompt.lower())
    negated = Counter[str]()
    for position, word in enumerate(words):
        if word in _NEGATORS or word.endswith(("n't", "n’t")):
            rest = (later for later in words[position + 1 :] if later not in _FILLERS)
            negated[next(rest, "")] += 1
    return negated


def quotations(prompt: str) -> Counter[str]:
    """Return the texts `prompt` puts in quotation marks, letter for letter but for white space."""
    groups = (next(part for part in match if part) for match in _QUOTED.findall(prompt))
    return Counter(" ".join(text.split()) for text in groups)


def lexical_veto(prompt: str, other: str) -> bool:
    """Return whether `prompt` must not resume from a picture of `other`.

    True when the two differ in the numbers they name, in what they negate, or in quoted text. Symmetric,
    and never true of equal prompts.
    """
    return any(read(prompt) != read(other) for read in (numbers, negations, quotations))
