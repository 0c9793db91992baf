"""What the cache would do for a request is told without doing it, and is what it then does."""

from typing import Any

from service_live import Client


def _explain(client: Client, prompt: str, *, headers: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    answer = client.http.post("/v1/cache/explain", json={"prompt": prompt, **fields}, headers=headers)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _counters(client: Client) -> list[str]:
    """All counters but those of HTTP requests and of Python itself."""
    lines = client.http.get("/metrics").text.splitlines()
    own = [line for line in lines if line.startswith("headstart_") and not line.startswith("headstart_request")]
    return [line for line in own if line.split("{")[0].split(" ")[0].endswith(("_total", "_count"))]


def test_a_foreseen_resume_is_the_one_that_comes(client: Client) -> None:
    client.draw("an owl on a birch branch")
    client.settle()
    told = _explain(client, "an owl on a bare birch branch")
    assert (told["verdict"], told["reason"]) == ("APPROX", "match")
    nearest = told["candidates"][0]
    assert nearest["prompt"] == "an owl on a birch branch"
    assert (nearest["vetoed"], nearest["reason"]) == (False, "match")
    assert [state["has_prediction"] for state in nearest["states"]] == [True] * len(nearest["states"])
    attempt = told["attempts"][0]
    drawn = client.cache("an owl on a bare birch branch")
    assert drawn["verdict"] == "APPROX"
    assert drawn["source"]["id"] == attempt["id"] == nearest["id"]
    assert drawn["similarity"] == attempt["similarity"] == told["similarity"]
    outcomes = [(one["skipped_steps"], one["wasted_steps"]) for one in attempt["outcomes"]]
    assert (drawn["skipped_steps"], drawn["wasted_steps"]) in outcomes
    assert all(one["saved_gpu_seconds"] is not None for one in attempt["outcomes"])


def test_nothing_is_counted_and_nothing_is_drawn(client: Client) -> None:
    client.draw("a rowing boat at low tide", seed=5)
    client.settle()
    entry = _explain(client, "a rowing boat at low tide", seed=5)["exact_entry"]
    before, uses = _counters(client), client.http.get(f"/v1/cache/entries/{entry}").json()["uses"]
    for fields in ({"seed": 5}, {}, {"cache": {"mode": "off"}}):
        _explain(client, "a rowing boat at low tide", **fields)
    client.settle()
    assert _counters(client) == before
    assert client.http.get(f"/v1/cache/entries/{entry}").json()["uses"] == uses


def test_an_exact_repeat_is_foreseen(client: Client) -> None:
    client.draw("a violin case", seed=77)
    client.settle()
    told = _explain(client, "a violin case", seed=77)
    drawn = client.cache("a violin case", seed=77)
    assert (told["verdict"], told["exact_entry"]) == ("EXACT", drawn["source"]["id"])
    assert _explain(client, "a violin case", seed=78)["reason"] == "no-exact"


def test_a_veto_is_told_with_its_reason(client: Client) -> None:
    client.draw("two ceramic bowls", size="64x32")
    client.settle()
    told = _explain(client, "three ceramic bowls", size="64x32")
    assert (told["verdict"], told["reason"], told["attempts"]) == ("MISS", "veto", [])
    (bowl,) = [one for one in told["candidates"] if one["prompt"] == "two ceramic bowls"]
    assert bowl["vetoed"]
    assert bowl["veto_reasons"]
    assert bowl["reason"] == "veto"


def test_why_nothing_fits(client: Client) -> None:
    assert _explain(client, "x", size="32x64")["reason"] == "no-candidates"
    assert _explain(client, "x", cache={"mode": "off"})["verdict"] == "BYPASS"
    assert _explain(client, "x", headers={"Cache-Control": "no-cache"})["verdict"] == "REFRESH"
    client.draw("a lighthouse in fog", size="32x64")
    client.settle()
    far = _explain(client, "quarterly tax return", size="32x64")
    assert (far["reason"], far["candidates"][0]["reason"]) == ("low-similarity", "low-similarity")
    bounded = _explain(client, "a lighthouse in thick fog", size="32x64", cache={"max_skip_ratio": 0.2})
    assert all(o["skip"] <= 0.2 for attempt in bounded["attempts"] for o in attempt["outcomes"])


def test_a_wrong_field_is_named(client: Client) -> None:
    answer = client.http.post("/v1/cache/explain", json={"prompt": "x", "sceduler": "ddim"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "sceduler")
