"""Words that change the meaning but hardly the embedding."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.matching import lexical_veto


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


WORDS = st.lists(st.sampled_from(["two", "no", "3", '"hi"', "'ho'", "cat", "isn't", "”", "“", "8k", "."])).map(
    " ".join
)


@given(st.one_of(WORDS, st.text()), st.one_of(WORDS, st.text()))
def test_symmetric_and_never_of_itself(prompt: str, other: str) -> None:
    assert lexical_veto(prompt, other) == lexical_veto(other, prompt)
    assert not lexical_veto(prompt, prompt)
