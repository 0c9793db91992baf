import time
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.answer_headers import CacheStatus, own_status, parse_cache_status, parse_retry_after


@pytest.mark.parametrize(
    ("header", "hit", "forwarded", "stored"),
    [
        ('headstart; hit; detail="exact"', True, None, False),
        ('headstart; hit; stored; detail="approximate; sim=0.913; k=15/50"', True, None, True),
        ('headstart; fwd=miss; stored; detail="no-candidates"', False, "miss", True),
        ('headstart; fwd=bypass; detail="off"', False, "bypass", False),
        ('headstart;fwd=request;detail="say \\"hit; hit\\", then"', False, "request", False),
    ],
)
def test_the_services_own_forms(header: str, hit: bool, forwarded: str | None, stored: bool) -> None:
    status = own_status(header)
    assert status is not None
    assert (status.cache, status.hit, status.forwarded, status.stored) == ("headstart", hit, forwarded, stored)


def test_details_are_kept_whole() -> None:
    status = own_status('headstart; fwd=miss; detail="a; hit, b=\\"c\\""')
    assert status == CacheStatus("headstart", False, "miss", False, {"fwd": "miss", "detail": 'a; hit, b="c"'})


def test_other_caches_on_the_way() -> None:
    header = 'Headstart; fwd=miss, "The, CDN"; fwd=uri-miss; ttl=30, edge; hit'
    assert [one.cache for one in parse_cache_status(header)] == ["Headstart", "The, CDN", "edge"]
    status = own_status(header)
    assert status is not None
    assert status.forwarded == "miss"
    assert own_status("edge; hit") is None


@pytest.mark.parametrize("header", [None, "", ";hit", "headstart; hit,, edge; hit"])
def test_unreadable_is_none(header: str | None) -> None:
    assert own_status(header) is None


@given(st.text(max_size=60))
def test_any_text_is_read_without_a_fault(header: str) -> None:
    for status in parse_cache_status(header):
        assert status.cache
    wait = parse_retry_after(header)
    assert wait is None or 0 <= wait <= 3600


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("0", 0),
        (" 7 ", 7),
        ("99999", 3600),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        (None, None),
        ("²", None),
    ],
)
def test_retry_after_in_seconds(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header) == seconds


def test_retry_after_as_a_date() -> None:
    wait = parse_retry_after(formatdate(time.time() + 100, usegmt=True))
    assert wait is not None
    assert 0 < wait <= 100
    assert parse_retry_after(formatdate(time.time() - 100, usegmt=True)) == 0
