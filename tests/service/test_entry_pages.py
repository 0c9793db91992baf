"""Lists of entries, page by page, and wishes about their age."""

import time

import pytest
from service_live import Client

ENTRIES = "/v1/cache/entries"


@pytest.fixture(scope="module")
def made(live_client: Client) -> list[str]:
    """Prompts of five entries, oldest first."""
    prompts = [f"a paged cube number {number}" for number in range(5)]
    for index, prompt in enumerate(prompts):
        live_client.draw(prompt, negative_prompt="pages", num_inference_steps=2, user=f"pager-{index % 2}")
        live_client.settle()
    return prompts


def _pages(client: Client, **query: object) -> list[list[str]]:
    pages: list[list[str]] = []
    cursor = ""
    while True:
        answer = client.http.get(ENTRIES, params={**query, "cursor": cursor})
        assert answer.status_code == 200, answer.text
        body = answer.json()
        pages.append([entry["prompt"] for entry in body["data"]])
        assert body["has_more"] is (body["next_cursor"] is not None)
        if not body["has_more"]:
            return pages
        cursor = body["next_cursor"]


def test_pages_follow_each_other_without_gap_or_repeat(client: Client, made: list[str]) -> None:
    pages = _pages(client, limit=2, prompt="A PAGED Cube")
    assert [prompt for page in pages for prompt in page] == made[::-1]
    assert max(map(len, pages)) == 2
    everything = [prompt for page in _pages(client, limit=200) for prompt in page]
    assert set(made) <= set(everything)
    assert len(everything) == client.entries()


def test_by_user_and_by_time(client: Client, made: list[str]) -> None:
    assert [prompt for page in _pages(client, user="pager-1", limit=1) for prompt in page] == [made[3], made[1]]
    entries = client.http.get(ENTRIES, params={"prompt": "a paged cube"}).json()["data"]
    middle = entries[2]["created"]
    before = _pages(client, prompt="a paged cube", before=repr(middle))
    after = _pages(client, prompt="a paged cube", after=repr(middle))
    assert [prompt for page in before for prompt in page] == made[:2][::-1]
    assert [prompt for page in after for prompt in page] == made[2:][::-1]
    assert _pages(client, user="nobody") == [[]]


def test_max_age_leaves_older_ones_out(client: Client) -> None:
    wish = {"negative_prompt": "ages", "num_inference_steps": 8}
    client.draw("an aged cube", seed=3, **wish)
    client.settle()
    time.sleep(1.1)
    aged = {"headers": {"Cache-Control": "max-age=1"}}
    young = {"headers": {"Cache-Control": "max-age=3600, min-fresh=10"}}
    assert client.cache("an aged cube", seed=3, **wish, **young)["verdict"] == "EXACT"
    assert client.cache("an aged cube", **wish, **young, cache={"store": False})["verdict"] == "APPROX"
    assert client.cache("an aged cube", **wish, **aged, cache={"store": False})["verdict"] == "MISS"
    assert client.cache("an aged cube", seed=3, **wish, **aged, cache={"store": False})["verdict"] == "MISS"
    assert client.cache("an aged cube", **wish, headers={"Cache-Control": "max-age=0"})["verdict"] == "REFRESH"


def test_what_runs_here_is_told(client: Client) -> None:
    assert client.http.get("/startupz").json()["status"] == "ok"
    version = client.http.get("/version").json()
    assert (version["api"], version["model"]) == ("v1", "tiny")
    assert len(version["weights_digest"]) == 64
