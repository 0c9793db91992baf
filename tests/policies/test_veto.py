"""Words that change the meaning but hardly the embedding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.matching import lexical_veto, veto_reasons
from policies.matching.veto import KINDS, checked_kinds, read, says_nothing


@pytest.mark.parametrize(
    ("prompt", "other"),
    [
        ("two cats", "three cats"),
        ("2 cats", "3 cats"),
        ("two cats", "a cat"),
        ("a dozen eggs", "ten eggs"),
        ("a street with people", "a street without people"),
        ("a hill without trees", "a hill without clouds"),
        ("a dog that isn't wet", "a dog that is wet"),
        ('a sign saying "open"', 'a sign saying "closed"'),
        ("a sign saying 'open'", "a sign"),
        ("a sign saying “Open”", "a sign saying “open”"),
        ("a house in 1920", "a house in 1990"),
    ],
)
def test_vetoed(prompt: str, other: str) -> None:
    assert lexical_veto(prompt, other)


@pytest.mark.parametrize(
    ("prompt", "other"),
    [
        ("two cats", "2 cats"),
        ("one cat", "a cat"),
        ("a pair of shoes", "two shoes"),
        ("a castle, 8k, highly detailed", "a castle, 4k"),
        ("a hill without any trees", "a hill with no trees"),
        ("a cat's bowl and a dog's bed", "a dog's bed and a cat's bowl"),
        ('a sign saying "open"', "a sign saying “open”"),
        ("knots and notes", "a northern nook"),
    ],
)
def test_let_through(prompt: str, other: str) -> None:
    assert not lexical_veto(prompt, other)


VOCABULARY = """
    two no 3 "hi" 'ho' cat isn't ” “ 8k . , red blue ball box left right of the on above behind and Paris Rome large
    small in front corner top from below that is with dogs
"""
WORDS = st.lists(st.sampled_from(VOCABULARY.split())).map(" ".join)
KIND_SETS = st.sets(st.sampled_from(sorted(KINDS))).map(frozenset)


@given(st.one_of(WORDS, st.text()), st.one_of(WORDS, st.text()), KIND_SETS)
def test_symmetric_and_never_of_itself(prompt: str, other: str, kinds: frozenset[str]) -> None:
    assert veto_reasons(prompt, other, kinds) == veto_reasons(other, prompt, kinds)
    assert lexical_veto(prompt, other, kinds) == bool(veto_reasons(prompt, other, kinds))
    assert veto_reasons(prompt, prompt, kinds) == ()


@given(WORDS, WORDS, KIND_SETS)
def test_each_kind_judges_for_itself(prompt: str, other: str, kinds: frozenset[str]) -> None:
    alone = {kind for kind in kinds if lexical_veto(prompt, other, frozenset({kind}))}
    assert set(veto_reasons(prompt, other, kinds)) == alone


def test_kinds_that_are_off_see_nothing() -> None:
    pair = ("a red ball left of a blue box", "a blue box left of a red ball")
    assert veto_reasons(*pair) == ("relations",)
    assert not lexical_veto(*pair, kinds=KINDS - {"relations"})
    assert not lexical_veto("two cats", "no cats", kinds=frozenset())


def test_unknown_kinds_are_named() -> None:
    with pytest.raises(ValueError, match=r"unknown kind of veto 'smells'; known: numbers, negation"):
        checked_kinds({"numbers", "smells"})


def test_a_prompt_that_says_nothing_of_a_kind_is_known() -> None:
    assert says_nothing(read("a calm lake", KINDS))
    assert not says_nothing(read("a calm lake on the left", KINDS))
    assert says_nothing(read("a calm lake on the left", frozenset({"numbers", "negation"})))
