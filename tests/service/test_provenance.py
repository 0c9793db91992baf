"""Any answered picture can be looked up and drawn again, bit for bit, even when what it came from is gone."""

import base64
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from service_live import Client, LiveServer, live

from service.pictures import decode

FORMS = {
    "trajectory": {},
    "int8": {"state_codec": "int8"},
    "final-noise": {"state_form": "final-noise", "state_codec": "int8"},
}


def _record(client: Client, drawn: dict[str, Any]) -> dict[str, Any]:
    answer = client.http.get(f"/v1/generations/{drawn['id']}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _replay(client: Client, drawn: dict[str, Any], body: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = client.http.post(f"/v1/generations/{drawn['id']}/replay", json=body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def _pixels(drawn: dict[str, Any]) -> bytes:
    return decode(base64.b64decode(drawn["b64_json"])).tobytes()


def _assert_identical(drawn: dict[str, Any], again: dict[str, Any]) -> None:
    assert (again["identical"], again["max_difference"]) == (True, 0)
    assert _pixels(again) == _pixels(drawn)
    assert again["sha256"] == hashlib.sha256(_pixels(drawn)).hexdigest()


def test_a_full_run_is_recorded_and_replayed(client: Client) -> None:
    answer = client.post({"prompt": "provenance of a brass kettle", "negative_prompt": "steam", "seed": 3, "n": 2})
    first, second = answer.json()["data"]
    assert answer.headers["X-Headstart-Generation"] == f"{first['id']}, {second['id']}"
    record = _record(client, second)
    wanted = {"prompt": "provenance of a brass kettle", "negative_prompt": "steam", "seed": 4, "size": "32x32"}
    assert record["request"].items() >= wanted.items()
    assert (record["verdict"], record["entered"], record["lineage"]) == ("MISS", None, [])
    assert record["sha256"] == hashlib.sha256(_pixels(second)).hexdigest()
    assert record["batch_invariant"] is False
    for name in ("headstart", "torch", "diffusers", "weights_digest", "embedder_digest", "table_digest", "device"):
        assert record["versions"][name]
    client.settle()  # the picture must be kept to be compared with
    again = _replay(client, second)
    assert (again["runs"], again["differing_versions"]) == (1, [])
    assert again["max_difference"] in (0, 1)  # the two shared a batch
    assert again["identical"] == (again["max_difference"] == 0)


def test_a_picture_alone_in_the_loop_needs_no_setting_to_be_replayed(client: Client) -> None:
    drawn = client.draw("provenance of a steel kettle")
    assert _record(client, drawn)["batch_invariant"] is True
    _assert_identical(drawn, _replay(client, drawn))


def test_a_resumed_run_knows_its_source_and_is_replayed_from_it(client: Client) -> None:
    source = client.draw("a copper lantern on a stone wall")
    client.settle()
    drawn = client.draw("a copper lantern on a mossy stone wall")
    assert drawn["cache"]["verdict"] == "APPROX"
    record = _record(client, drawn)
    assert record["source_seed"] == source["seed"]
    assert record["entered"]["generation"] == source["id"]
    assert record["entered"]["entry"] == _record(client, source)["entry"] == drawn["cache"]["source"]["id"]
    assert [run["generation"] for run in record["lineage"]] == [source["id"]]
    assert record["skipped_steps"] == drawn["cache"]["skipped_steps"] > 0
    _assert_identical(drawn, _replay(client, drawn))


def test_replays_are_neither_remembered_nor_counted(client: Client) -> None:
    drawn = client.draw("a tin whistle in a drawer", seed=11)
    client.settle()
    names = ("verdicts", "steps_total", "skipped_steps", "wasted_steps", "saved_gpu_seconds", "saved_feature_seconds")
    before, entries = client.http.get("/v1/stats").json(), client.entries()
    _replay(client, drawn)
    client.settle()
    after = client.http.get("/v1/stats").json()
    assert [after[name] for name in names] == [before[name] for name in names]
    assert client.entries() == entries
    assert client.cache("a tin whistle in a drawer", seed=11)["verdict"] == "EXACT"


def test_an_exact_repeat_is_replayed_by_the_run_that_drew_it(client: Client) -> None:
    first = client.draw("a paper boat in a puddle", seed=21)
    client.settle()
    drawn = client.draw("a paper boat in a puddle", seed=21)
    record = _record(client, drawn)
    assert (record["verdict"], record["repeats"]) == ("EXACT", _record(client, first)["entry"])
    _assert_identical(drawn, _replay(client, drawn))


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc", "euler_ancestral", "heun", "deis", "lcm"])
def test_every_solver_is_replayed_with_feature_caching_and_after_a_resume(client: Client, solver: str) -> None:
    fields = {
        "scheduler": solver,
        "num_inference_steps": 10,
        "feature_cache": {"policy": "deepcache", "strength": 0.8},
    }
    source = client.draw(f"a walnut clock by {solver}", **fields)
    client.settle()
    drawn = client.draw(f"an old walnut clock by {solver}", **fields)
    assert drawn["cache"]["verdict"] == "APPROX"
    assert _record(client, source)["feature_cache"]["policy"] == "deepcache"
    for one in (source, drawn):
        _assert_identical(one, _replay(client, one))


def test_what_was_drawn_among_others_is_replayed_as_if_alone(small: Client) -> None:
    wishes = [{"prompt": f"mixed batch {number}", "num_inference_steps": 3 + number} for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda wish: small.draw(**wish), wishes))
    for one in drawn:
        assert _record(small, one)["batch_invariant"]
        _assert_identical(one, _replay(small, one))


def test_what_may_not_be_remembered_is_replayed_only_with_its_text(client: Client) -> None:
    prompt = "a secret garden gate"
    for drawn in (
        client.draw(prompt, headers={"Cache-Control": "no-store"}),
        client.draw(prompt, cache={"mode": "off"}),
    ):
        record = _record(client, drawn)
        assert (record["request"]["prompt"], record["request"]["negative_prompt"], record["entry"]) == (None,) * 3
        url = f"/v1/generations/{drawn['id']}/replay"
        for body in (None, {}, {"prompt": "another text"}, {"prompt": prompt, "negative_prompt": "another"}):
            answer = client.http.post(url, json=body)
            assert answer.status_code == 400
            assert answer.json()["error"]["code"] == "text_needed"
        _assert_identical(drawn, _replay(client, drawn, {"prompt": prompt}))


def test_deleting_by_user_or_entry_deletes_the_record(client: Client) -> None:
    by_user = client.draw("a felt hat on a hook", user="provenance-ann")
    by_entry = client.draw("an iron gate at noon", seed=31)
    client.settle()
    repeated = client.draw("an iron gate at noon", seed=31)
    entry = _record(client, by_entry)["entry"]
    _record(client, repeated)
    assert client.http.delete("/v1/cache/entries", params={"user": "provenance-ann"}).status_code == 200
    assert client.http.delete(f"/v1/cache/entries/{entry}").status_code == 200
    for drawn in (by_user, by_entry, repeated):
        assert client.http.get(f"/v1/generations/{drawn['id']}").status_code == 404


def test_what_is_not_there_is_a_404_and_a_wrong_name_a_400(client: Client) -> None:
    for path, status in ((f"/v1/generations/{'0' * 32}", 404), ("/v1/generations/nothing", 400)):
        assert client.http.get(path).status_code == status
        assert client.http.post(f"{path}/replay").status_code == status


def test_a_watched_picture_tells_its_generation(client: Client) -> None:
    name, completed = client.events({"prompt": "a ferry at dusk"})[-1]
    assert name == "completed"
    _assert_identical(completed, _replay(client, completed))


@pytest.fixture(scope="module", params=list(FORMS))
def small(request, resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with room for the states of a few generations."""
    folder = tmp_path_factory.mktemp("small")
    room = {"model": str(resuming_model), "threads": "1", "state_bytes": "50000", "eviction": "fifo"}
    room["batch_invariant"] = "true"
    with live(folder, **room, **FORMS[request.param]) as server:
        client = Client(server)
        yield client
        client.http.close()


def _flood(client: Client, entry: str) -> None:
    """Draw other pictures until an entry has no state left."""
    for number in range(60):
        client.draw(f"{number * 7919} unlike words {number}", seed=number)
        client.settle()
        found = client.http.get(f"/v1/cache/entries/{entry}")
        if found.status_code == 404 or not found.json()["states"]:
            return
    raise AssertionError("the states were never evicted")


@pytest.mark.parametrize(("size", "diversity"), [("64x32", 0.0), ("32x64", 0.6)])
def test_evicted_sources_are_drawn_again(small: Client, size: str, diversity: float) -> None:
    # A partition of its own: searches lease what they find, and in a full store only the newest were left to go.
    chain = [small.draw("a green glass bottle on a shelf", size=size)]
    # Entered early, so that it leaves states of its own, which the last one is nearest to.
    for prompt, deepest in (
        ("a green glass bottle on a high shelf", 0.25),
        ("the green glass bottle on a high shelf", 1),
    ):
        small.settle()
        wish = {"mode": "approximate", "max_skip_ratio": deepest, "diversity": diversity}
        chain.append(small.draw(prompt, size=size, cache=wish))
    assert [one["cache"]["verdict"] for one in chain] == ["MISS", "APPROX", "APPROX"]
    assert [one["cache"]["diversity"] for one in chain] == [0.0, diversity, diversity]
    records = [_record(small, one) for one in chain]
    small.settle()
    assert [len(record["lineage"]) for record in records] == [0, 1, 2]
    _assert_identical(chain[-1], _replay(small, chain[-1]))
    for record in records[:2]:
        _flood(small, record["entry"])
    for drawn, record in zip(chain, records, strict=True):
        again = _replay(small, drawn)
        _assert_identical(drawn, again)
        assert again["runs"] == 1 + len(record["lineage"])
    # Without its source's record nothing leads back to the state.
    assert small.http.delete(f"/v1/cache/entries/{records[0]['entry']}").status_code in (200, 404)
    gone = small.http.post(f"/v1/generations/{chain[1]['id']}/replay")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "state_gone")


def test_no_records_are_kept_where_none_are_wanted(
    resuming_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("unrecorded")
    with live(folder, model=str(resuming_model), threads="1", records="0") as server:
        client = Client(server)
        drawn = client.draw("nothing is kept of this")
        client.settle()
        assert client.http.get(f"/v1/generations/{drawn['id']}").status_code == 404
        client.http.close()
    _assert_stopped(server)


def _assert_stopped(server: LiveServer) -> None:
    assert "a record was lost" not in server.log.read_text()
