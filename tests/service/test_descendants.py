"""What came from an entry: head starts it gave, and its picture returned again."""

from service_live import Client

ENTRIES = "/v1/cache/entries"
WISH = {"negative_prompt": "descendants", "num_inference_steps": 8}


def _of(client: Client, entry: str, **query: object) -> dict[str, object]:
    answer = client.http.get(f"{ENTRIES}/{entry}/generations", params=query)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_head_starts_and_repeats_are_listed_with_what_they_skipped(client: Client) -> None:
    first = client.draw("a heron in the reeds", seed=5, **WISH)
    client.settle()
    entry = client.http.get(f"/v1/generations/{first['id']}").json()["entry"]
    assert _of(client, entry) == {"object": "list", "has_more": False, "next_cursor": None, "data": []}
    repeat = client.draw("a heron in the reeds", seed=5, **WISH)
    client.server.wait(lambda: len(_of(client, entry)["data"]) == 1, "recorded")
    start = client.draw("a heron among the reeds", **WISH)
    assert start["cache"]["source"]["id"] == entry
    client.server.wait(lambda: len(_of(client, entry)["data"]) == 2, "recorded")
    newest, oldest = _of(client, entry)["data"]
    assert (newest["id"], newest["verdict"], newest["prompt"]) == (start["id"], "APPROX", "a heron among the reeds")
    assert newest["skipped_steps"] == start["cache"]["skipped_steps"]
    assert (oldest["id"], oldest["verdict"], oldest["skipped_steps"]) == (repeat["id"], "EXACT", 8)
    page = _of(client, entry, limit=1)
    assert page["has_more"]
    rest = _of(client, entry, limit=1, cursor=page["next_cursor"])
    assert [page["data"][0]["id"], rest["data"][0]["id"]] == [start["id"], repeat["id"]]
    assert not rest["has_more"]


def test_missing_entries_and_wrong_cursors_are_told(client: Client) -> None:
    assert client.http.get(f"{ENTRIES}/7/generations").status_code == 404
    wrong = client.http.get(f"{ENTRIES}/7/generations", params={"cursor": "x"})
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "cursor")
