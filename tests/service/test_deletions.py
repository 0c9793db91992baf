"""Deletion over HTTP: what was meant goes, whatever could be meant otherwise is refused."""

import time
from typing import Any

import pytest
from service_live import Client

from cache_store.selection import Selection, user_digest
from service.api.deletions import selection_of
from service.api.errors import InvalidRequestError
from service.api.schema import DeletionQuery

ENTRIES = "/v1/cache/entries"


def chosen(**query: Any) -> Selection:
    return selection_of(DeletionQuery(**query), list(query), "anna")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1700000000", 1_700_000_000.0),
        ("1700000000.5", 1_700_000_000.5),
        ("0", 0.0),
        ("2023-11-14T22:13:20Z", 1_700_000_000.0),
        ("2023-11-14T22:13:20", 1_700_000_000.0),
        ("2023-11-14T23:13:20+01:00", 1_700_000_000.0),
        ("2023-11-14T23:13:20 01:00", 1_700_000_000.0),
        ("2023-11-14", 1_699_920_000.0),
    ],
)
def test_times(text: str, seconds: float) -> None:
    assert chosen(before=text) == Selection(tenant="anna", created_before=seconds)
    assert chosen(after=text) == Selection(tenant="anna", created_after=seconds)


@pytest.mark.parametrize("text", ["", "nan", "inf", "-5", "1e999", "soon", "2023-13-01", "0001-01-01", "T", "\0"])
def test_times_that_are_none(text: str) -> None:
    for name in ("before", "after"):
        with pytest.raises(InvalidRequestError) as caught:
            chosen(**{name: text})
        assert caught.value.param == name
        assert text not in caught.value.message or len(text) < 2


def test_criteria_are_joined() -> None:
    user = user_digest("anna", "bob")
    assert chosen(user="bob", before="9", after="5") == Selection("anna", user, None, 9.0, 5.0)
    assert chosen(all=True) == Selection("anna")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({}, "all"),
        ({"all": False}, "all"),
        ({"all": True, "user": "bob"}, "all"),
        ({"before": "5", "after": "5"}, "after"),
    ],
)
def test_what_could_be_meant_otherwise_is_refused(query: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        chosen(**query)
    assert caught.value.param == param


def test_a_criterion_given_twice_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as caught:
        selection_of(DeletionQuery(user="bob"), ["user", "user"], "anna")
    assert caught.value.param == "user"


@pytest.mark.parametrize(
    ("query", "param"),
    [("", "all"), ("?users=bob", "users"), ("?before=5&usr=x", "usr"), ("?user=", "user"), ("?all=maybe", "all"),
     ("?user=a&user=b", "user"), ("?before=soon", "before"), ("?user=" + "x" * 513, "user")],
)  # fmt: skip
def test_bad_requests_are_named_and_delete_nothing(client: Client, query: str, param: str) -> None:
    before = client.entries()
    answer = client.http.delete(ENTRIES + query)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert client.entries() == before


def test_one_entry(client: Client) -> None:
    client.draw("deleted one", seed=1, negative_prompt="deletions")
    client.settle()
    newest = client.http.get(ENTRIES, params={"limit": 1}).json()["data"][0]
    assert newest["prompt"] == "deleted one"
    assert newest["expires"] is None
    where = f"{ENTRIES}/{newest['id']}"
    answer = client.http.delete(where)
    assert answer.status_code == 200
    assert answer.json() == {"id": newest["id"], "object": "cache.entry.deleted", "deleted": True}
    for method, path in (("DELETE", where), ("GET", where), ("GET", f"{where}/image")):
        assert client.http.request(method, path).status_code == 404
    assert client.http.delete(f"{ENTRIES}/9999999999999999999").status_code == 404
    assert client.http.delete(f"{ENTRIES}/abc").status_code == 400
    assert client.cache("deleted one", seed=1, negative_prompt="deletions")["verdict"] == "MISS"


def test_a_users_entries_and_a_range_of_time(client: Client) -> None:
    fields = {"negative_prompt": "deletions2", "seed": 3}
    for user in ("bob", "eve"):
        client.draw(f"of {user}", user=user, **fields)
    client.settle()
    started = time.time()
    assert client.http.delete(ENTRIES, params={"user": "bob"}).json()["deleted"] == 1
    assert client.http.delete(ENTRIES, params={"user": "bob"}).json() == {
        "object": "cache.entries.deleted",
        "deleted": 0,
    }
    assert client.cache("of eve", **fields)["verdict"] == "EXACT"
    assert client.http.delete(ENTRIES, params={"user": "eve", "after": started}).json()["deleted"] == 0
    assert client.http.delete(ENTRIES, params={"user": "eve", "before": started}).json()["deleted"] == 1
    assert client.cache("of eve", **fields)["verdict"] == "MISS"


def test_everything(client: Client) -> None:
    client.draw("deleted with all", negative_prompt="deletions3")
    client.settle()
    held = client.entries()
    assert held
    assert client.http.delete(ENTRIES, params={"all": "true"}).json()["deleted"] == held
    assert client.entries() == 0


def test_openapi_describes_it(client: Client) -> None:
    paths = client.http.get("/openapi.json").json()["paths"]
    many, one = paths[ENTRIES]["delete"], paths[f"{ENTRIES}/{{entry_id}}"]["delete"]
    assert {parameter["name"] for parameter in many["parameters"]} == {"user", "before", "after", "all"}
    assert {*one["responses"]} == {*many["responses"]} == {"200", "400", "401", "404", "500", "503"}
