"""Small edits of real prompts, by rule: such as change the picture, and such as do not."""

import re
from collections.abc import Callable

from policies.matching.veto.words import COLOURS, QUOTED

Edit = Callable[[str], str | None]
"""The edited prompt, or None where the edit does not apply."""

_ANY_COLOUR = "red|orange|yellow|green|blue|purple|pink|white|black|gr[ae]y|brown|golden"
_COLOUR = re.compile(rf"\b(?:{_ANY_COLOUR})\b", re.IGNORECASE)
_COLOURED = re.compile(
    rf"\b(?P<article>an?|the) (?P<colour>{_ANY_COLOUR}) (?P<noun>[a-z]+)"
    r"(?= (?:on|in|with|and|next|to|at|by|under)\b|[,.]|$)"
)
_NEXT_NUMBER = {
    "two": "three", "three": "five", "four": "two", "five": "four", "six": "four", "seven": "three", "eight": "six",
    "nine": "seven", "ten": "six", "dozen": "hundred",
}  # fmt: skip
_NUMBER = re.compile(rf"\b(?:{'|'.join(_NEXT_NUMBER)})\b", re.IGNORECASE)
_DIGIT = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9"}
_SPELLED = re.compile(rf"\b(?:{'|'.join(_DIGIT)})\b", re.IGNORECASE)
_SIDE = re.compile(
    r"(?<=the |its |her |his )(left|right)\b(?= of| side| hand| corner|[,.]|$)|\b(left|right)(?= of\b)"
)
_REVERSED = {
    "to the left of": "to the right of", "to the right of": "to the left of", "above": "below", "below": "above",
    "under": "above", "behind": "in front of", "in front of": "behind", "on top of": "under",
}  # fmt: skip
_RELATED = re.compile(
    r"^(?P<lead>(?:an?|the) (?:photo|photograph|picture|image|painting|illustration|drawing) of )?"
    r"(?P<first>(?:an?|the|two|three) [^,.]+?)(?P<verb> (?:is )?(?:\w+ing|parked|perched|situated))?"
    rf" (?P<relation>{'|'.join(_REVERSED)}) (?P<second>(?:an?|the|two|three) [^,.]+?)(?P<rest>[,.].*)?$",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?<=[a-z] )(?:[A-Z][a-z]+)(?: (?:of |de )?[A-Z][a-z]+)*")


def _swap_colours(prompt: str) -> str | None:
    found = list(_COLOUR.finditer(prompt))
    other = next((one for one in found[1:] if one[0].lower() != found[0][0].lower()), None)
    if other is None:
        return None
    first = found[0]
    between = prompt[first.end() : other.start()]
    if not re.search(r"\b(?!and\b|or\b)\w+", between):
        return None  # "red and blue balloons" are "blue and red balloons"
    return prompt[: first.start()] + other[0].lower() + between + first[0].lower() + prompt[other.end() :]


def _change_colour(prompt: str) -> str | None:
    found = _COLOUR.search(prompt)
    if found is None:
        return None
    new = "blue" if COLOURS[found[0].lower()] in ("red", "green", "orange", "gold") else "red"
    if COLOURS[found[0].lower()] == new:
        new = "green"
    return prompt[: found.start()] + new + prompt[found.end() :]


def _change_number(prompt: str) -> str | None:
    return _once(_NUMBER, lambda match: _NEXT_NUMBER[match[0].lower()], prompt)


def _change_side(prompt: str) -> str | None:
    return _once(_SIDE, lambda match: "right" if match[0] == "left" else "left", prompt)


def _negate(prompt: str) -> str | None:
    for old, new in (
        (" without any ", " with "),
        (" without ", " with "),
        (" with no ", " with "),
        (" with ", " without "),
    ):
        if old in prompt:
            return prompt.replace(old, new, 1)
    return None


def _swap_things(prompt: str) -> str | None:
    found = _RELATED.match(prompt)
    return found and _related(found, found["second"], found["relation"], found["first"])


def _change_name(prompt: str) -> str | None:
    return (
        None
        if prompt.istitle()
        else _once(_NAME, lambda match: "Timbuktu" if " " not in match[0] else "Angkor Wat", prompt)
    )


def _change_quotation(prompt: str) -> str | None:
    return _once(QUOTED, lambda _: '"see you soon"', prompt)


def _turn_round(prompt: str) -> str | None:
    found = _RELATED.match(prompt)
    if found is None:
        return None
    return _related(found, found["second"], _REVERSED[found["relation"].lower()], found["first"])


def _related(found: re.Match[str], first: str, relation: str, second: str) -> str:
    lead, rest = found["lead"] or "", found["rest"] or ""
    return f"{lead}{_lowered(first)} {relation} {_lowered(second)}{rest}"


def _lowered(phrase: str) -> str:
    article, space, rest = phrase.partition(" ")
    return article.lower() + space + rest


def _in_digits(prompt: str) -> str | None:
    return _once(_SPELLED, lambda match: _DIGIT[match[0].lower()], prompt)


def _predicative(prompt: str) -> str | None:
    return _once(_COLOURED, lambda match: f"{match['article']} {match['noun']} that is {match['colour']}", prompt)


def _once(pattern: re.Pattern[str], new: Callable[[re.Match[str]], str], prompt: str) -> str | None:
    edited = pattern.sub(new, prompt, count=1)
    return None if edited == prompt else edited


def _if_changed(edit: Callable[[str], str]) -> Edit:
    def changed(prompt: str) -> str | None:
        edited = edit(prompt)
        return None if edited == prompt else edited

    return changed


EDITS: dict[str, Edit] = {
    "swap two colours": _swap_colours,
    "another colour": _change_colour,
    "another number": _change_number,
    "left <-> right": _change_side,
    "with <-> without": _negate,
    "swap two things": _swap_things,
    "another name": _change_name,
    "other quoted text": _change_quotation,
}
"""Edits that change what must be seen."""

REWORDINGS: dict[str, Edit] = {
    "lower case": _if_changed(lambda prompt: prompt if QUOTED.search(prompt) else prompt.lower()),
    "image of": lambda prompt: (
        "an image of " + _lowered(prompt) if prompt.lower().startswith(("a ", "an ", "the ")) else None
    ),
    "quality words": lambda prompt: prompt.rstrip(". ") + ", highly detailed, 8 k, trending on ArtStation",
    "digits": _in_digits,
    "that is red": _predicative,
    "other way round": _turn_round,
    "big": _if_changed(lambda prompt: re.sub(r"\blarge\b", "big", prompt)),
    "beside": _if_changed(lambda prompt: prompt.replace("next to", "beside")),
}
"""Edits that change no more than the wording."""
