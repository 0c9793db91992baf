"""Tenants over HTTP, against a real server: who gets in, and that nothing of one shows to another."""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from service_live import Client, LiveServer

from service.access import create_key, revoke_key
from service.access.identity import Rights

SHARES = Rights(share_write=True, share_read=True)
RIGHTS = {
    "alphonse": SHARES,
    "beatrice": SHARES,
    "cornelia": SHARES,
    "dagobert": Rights(),
    "operator": Rights(operator=True),
}
OPERATIONS = 2000
ENTRIES = "/v1/cache/entries"


@dataclass
class Party:
    """A tenant: its client, and what belongs to it."""

    name: str
    client: Client
    key: str
    entries: set[str] = field(default_factory=set)
    generations: list[str] = field(default_factory=list)

    def draw(self, prompt: str, **fields: Any) -> dict[str, Any]:
        drawn = self.client.draw(prompt, num_inference_steps=4, **fields)
        self.generations.append(drawn["id"])
        return drawn

    def own_entries(self) -> set[str]:
        return {entry["id"] for entry in self.client.http.get(ENTRIES, params={"limit": 200}).json()["data"]}


@pytest.fixture(scope="module")
def server(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    running = LiveServer(
        tmp_path_factory.mktemp("tenancy"), model=str(resuming_model), threads="1", public_quarantine_seconds="0"
    )
    running.data_dir.mkdir()
    create_key(running.data_dir / "keys.json", "nobody")
    yield running.start()
    running.stop()


@pytest.fixture(scope="module")
def parties(server: LiveServer) -> Iterator[dict[str, Party]]:
    found = {}
    for name, rights in RIGHTS.items():
        key, _ = create_key(server.data_dir / "keys.json", name, rights=rights)
        found[name] = Party(name, Client(server, key), key)
    # The file is looked at once a second.
    server.wait(lambda: found["operator"].client.http.get("/v1/models").status_code == 200, "aware of the keys")
    yield found
    for party in found.values():
        party.client.http.close()


def settle(parties: dict[str, Party]) -> None:
    parties["operator"].client.settle()


def test_every_route_but_probes_and_page_asks_for_a_key(server: LiveServer, parties: dict[str, Party]) -> None:
    described = parties["operator"].client.http.get("/openapi.json").json()
    revoked, record = create_key(server.data_dir / "keys.json", "gone")
    revoke_key(server.data_dir / "keys.json", record.key_id)
    keys = (None, "Bearer", "Bearer hs_wrong", f"Bearer {revoked}", f"Basic {parties['operator'].key}", "x" * 5000)
    open_paths = {"/livez", "/readyz", "/startupz"}
    answers = set()
    for path, operations in described["paths"].items():
        for method, operation in operations.items():
            url = server.url + re.sub(r"{entry_id}", "1", re.sub(r"{(job|picture|generation)_id}", "0" * 32, path))
            if path in open_paths:
                assert httpx.request(method, url).status_code in (200, 503)
                assert "401" not in operation["responses"]
                continue
            assert "401" in operation["responses"], path
            for key in keys:
                answer = httpx.request(method, url, headers={} if key is None else {"Authorization": key})
                assert answer.headers["www-authenticate"].startswith("Bearer")
                answers.add((answer.status_code, answer.text))
    for path in ("/openapi.json", "/nowhere", "/v1/nowhere", "/metrics", "/page/../v1/stats", "/page/nothing"):
        answer = httpx.get(server.url + path)
        answers.add((answer.status_code, answer.text))
    assert len(answers) == 1
    assert answers.pop()[0] == 401
    for path in ("/", "/app.js", "/page/", "/page/style.css"):
        assert httpx.get(server.url + path).status_code == 200


def test_the_official_client_sends_its_key(server: LiveServer, parties: dict[str, Party]) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="hs_wrong", max_retries=0) as stranger:
        with pytest.raises(openai.AuthenticationError) as refused:
            stranger.models.list()
        assert refused.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=parties["dagobert"].key) as known:
        assert len(known.models.list().data) == 1


def test_figures_of_the_whole_are_for_operators(parties: dict[str, Party]) -> None:
    dagobert, operator = parties["dagobert"].client.http, parties["operator"].client.http
    parties["alphonse"].draw("a lighthouse")
    for path in ("/metrics", "/v1/cache/audit"):
        refused = dagobert.get(path)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "not_permitted")
        assert operator.get(path).status_code == 200
    assert dagobert.post("/v1/cache/audit", json={"reset": True}).status_code == 403
    own, whole = dagobert.get("/v1/stats").json(), operator.get("/v1/stats").json()
    assert (own["requests"], own["gpu_seconds"], own["cache"]) == (0, 0.0, {"available": True, "entries": 0})
    assert whole["requests"] > 0
    assert set(own["engine"]) == {"ready"}
    assert "dagobert" not in operator.get("/metrics").text


def test_missing_and_another_s_are_the_same_everywhere(parties: dict[str, Party]) -> None:
    alphonse, beatrice = parties["alphonse"], parties["beatrice"]
    drawn = alphonse.draw("a windmill", seed=5)
    settle(parties)
    (entry,) = [one for one in alphonse.own_entries() if _prompt(alphonse, one) == "a windmill"]
    ways = (
        ("GET", f"{ENTRIES}/{{}}", entry, "7"),
        ("GET", f"{ENTRIES}/{{}}/image", entry, "7"),
        ("GET", f"{ENTRIES}/{{}}/generations", entry, "7"),
        ("DELETE", f"{ENTRIES}/{{}}", entry, "7"),
        ("GET", "/v1/generations/{}", drawn["id"], "0" * 32),
        ("POST", "/v1/generations/{}/replay", drawn["id"], "0" * 32),
        ("GET", "/v1/generations/{}/heatmap", drawn["id"], "0" * 32),
    )
    for method, path, theirs, missing in ways:
        other = beatrice.client.http.request(method, path.format(theirs))
        absent = beatrice.client.http.request(method, path.format(missing))
        assert (other.status_code, other.text) == (absent.status_code, absent.text) == (404, other.text)
    assert beatrice.client.http.delete(ENTRIES, params={"all": "true"}).status_code == 200
    assert entry in alphonse.own_entries()
    assert alphonse.client.http.get(f"/v1/generations/{drawn['id']}").status_code == 200
    # The very same request is no repeat, and resumes from nothing.
    again = beatrice.draw("a windmill", seed=5)
    assert again["cache"]["verdict"] == "MISS"
    assert alphonse.draw("a windmill", seed=5)["cache"]["verdict"] == "EXACT"


def test_what_a_scope_needs(parties: dict[str, Party]) -> None:
    dagobert = parties["dagobert"].client
    for cache, status, code in (
        ({"scope": "public"}, 403, "sharing_not_allowed"),
        ({"scope": "user"}, 400, "invalid_value"),
        ({"scope": "all"}, 400, "literal_error"),
    ):
        for path in ("/v1/images/generations", "/v1/generations/events", "/v1/cache/explain"):
            refused = dagobert.http.post(path, json={"prompt": "a boat", "cache": cache})
            error = refused.json()["error"]
            assert (refused.status_code, error["param"], error["code"]) == (status, "cache.scope", code)


def test_a_user_s_scope_is_for_that_user(parties: dict[str, Party]) -> None:
    dagobert = parties["dagobert"]
    wish: dict[str, Any] = {"cache": {"scope": "user"}, "seed": 3}
    dagobert.draw("a tall ship", user="una", **wish)
    settle(parties)
    assert dagobert.draw("a tall ship", user="una", **wish)["cache"]["verdict"] == "EXACT"
    assert dagobert.draw("a tall ship", user="ugo", **wish)["cache"]["verdict"] == "MISS"
    assert dagobert.draw("a tall ship", user="una", cache={"mode": "exact"}, seed=3)["cache"]["verdict"] == "MISS"


def test_across_tenants_the_kind_is_all_that_is_told(parties: dict[str, Party]) -> None:
    alphonse, beatrice, cornelia = (parties[name] for name in ("alphonse", "beatrice", "cornelia"))
    public: dict[str, Any] = {"cache": {"scope": "public"}}
    alphonse.draw("an old stone bridge", **public)
    settle(parties)
    # No witness yet but the reader itself.
    assert beatrice.draw("an old  stone BRIDGE", **public)["cache"]["verdict"] == "MISS"
    settle(parties)
    before = {one: _entry(alphonse, one) for one in alphonse.own_entries()}
    answer = cornelia.client.post({"prompt": "an old stone bridge", "num_inference_steps": 10, **public})
    told = answer.json()["data"][0]
    cornelia.generations.append(told["id"])
    assert told["cache"] == {
        "verdict": "APPROX",
        "reason": "public",
        "steps": 10,
        "skipped_steps": 0,
        "wasted_steps": 0,
        "evaluations": 0,
        "entry": None,
        "similarity": None,
        "divergence": None,
        "source": None,
        "saved_gpu_seconds": 0.0,
        "seed_exact": False,
        "stored": False,
        "hidden": True,
        "diversity": 0.0,
    }
    assert told["feature_cache"]["computed"] == 0
    assert answer.headers["cache-status"] == 'headstart; hit; detail="approximate"'
    assert float(answer.headers["x-denoise-time"]) == 0
    record = cornelia.client.http.get(f"/v1/generations/{told['id']}").json()
    assert (record["skipped_steps"], record["similarity"], record["lineage"]) == (0, None, [])
    assert (record["entered"], record["judged"], record["source_seed"]) == (None, None, None)
    # Nor does a replay go back to what is another's.
    gone = cornelia.client.http.post(f"/v1/generations/{told['id']}/replay")
    assert (gone.status_code, gone.json()["error"]["code"]) == (410, "state_gone")
    events = cornelia.client.events({"prompt": "an old stone bridge", "num_inference_steps": 10, **public})
    assert [name for name, _ in events] == ["queued", "plan", "completed"]
    assert events[1][1] | {"seed": 0, "feature_cache": 0} == {
        "verdict": "MISS",
        "reason": "public",
        "steps": 10,
        "first_step": 0,
        "similarity": None,
        "source": None,
        "seed": 0,
        "feature_cache": 0,
    }
    explained = cornelia.client.http.post("/v1/cache/explain", json={"prompt": "an old stone bridge", **public})
    assert (explained.json()["candidates"], explained.json()["attempts"]) == ([], [])
    stats = cornelia.client.http.get("/v1/stats").json()
    assert (stats["skipped_steps"], stats["saved_gpu_seconds"], stats["gpu_seconds"]) == (0, 0.0, 0.0)
    settle(parties)
    # Neither does the author see that it was used, nor does anything of it stay with whoever used it.
    assert {one: _entry(alphonse, one) for one in alphonse.own_entries()} == before
    assert cornelia.own_entries() == set()
    assert cornelia.draw("an old stone bridge")["cache"]["verdict"] == "MISS"


def test_what_a_repeat_saved_tells_nothing_of_others_doings(parties: dict[str, Party]) -> None:
    alphonse, beatrice = parties["alphonse"], parties["beatrice"]
    alphonse.draw("a water mill", seed=8)
    settle(parties)
    saved = {alphonse.draw("a water mill", seed=8)["cache"]["saved_gpu_seconds"]}
    for size in ("16x16", "64x64"):
        beatrice.draw("a busy mill", size=size, cache={"mode": "off"})
        saved.add(alphonse.draw("a water mill", seed=8)["cache"]["saved_gpu_seconds"])
    assert len(saved) == 1
    assert saved.pop() > 0


def test_a_tenant_s_deletion_takes_its_public_entries_along(parties: dict[str, Party]) -> None:
    alphonse, cornelia = parties["alphonse"], parties["cornelia"]
    assert alphonse.client.http.delete(ENTRIES, params={"all": "true"}).json()["deleted"] > 0
    assert alphonse.own_entries() == set()
    cornelia.client.http.delete(ENTRIES, params={"all": "true"})
    told = cornelia.draw("an old stone bridge", cache={"scope": "public"})
    assert told["cache"]["verdict"] == "MISS"


def test_a_revoked_key_is_out_of_force_soon(server: LiveServer, parties: dict[str, Party]) -> None:
    key, record = create_key(server.data_dir / "keys.json", "guest")
    client = Client(server, key).http
    server.wait(lambda: client.get("/v1/models").status_code == 200, "in force")
    revoke_key(server.data_dir / "keys.json", record.key_id)
    server.wait(lambda: client.get("/v1/models").status_code == 401, "out of force", seconds=30)
    client.close()


class Prying:
    """Random requests of random tenants; every answer is searched for what is another's."""

    def __init__(self, parties: dict[str, Party], seed: int) -> None:
        self.parties = [party for party in parties.values() if party.name != "operator"]
        self.dice = random.Random(seed)
        self.drawn = {party.name: 0 for party in self.parties}
        self.hits = 0

    def step(self) -> None:
        party = self.dice.choice(self.parties)
        kinds = (self.draw, self.explain, self.list, self.look_up, self.record, self.refused, self.stats)
        (kind,) = self.dice.choices(kinds, weights=(5, 15, 15, 30, 20, 10, 5))
        self.check(party, kind(party))

    def check(self, party: Party, answer: httpx.Response) -> None:
        assert answer.status_code < 500
        shown = answer.text + json.dumps(dict(answer.headers))
        for other in self.parties:
            if other is not party:
                assert other.name not in shown
                assert other.key not in shown
                assert not [one for one in other.entries | set(other.generations) if one in shown]

    def draw(self, party: Party) -> httpx.Response:
        answer = party.client.post(self._wish(party) | {"num_inference_steps": 2})
        if answer.status_code == 200:
            told = answer.json()["data"][0]
            party.generations.append(told["id"])
            hit = told["cache"]["verdict"] in ("APPROX", "EXACT")
            # Everybody's prompts are near one another: without anything of one's own a hit would be another's.
            assert not hit or self.drawn[party.name]
            self.hits += hit
            self.drawn[party.name] += 1
        return answer

    def explain(self, party: Party) -> httpx.Response:
        return party.client.http.post("/v1/cache/explain", json=self._wish(party))

    def list(self, party: Party) -> httpx.Response:
        answer = party.client.http.get(ENTRIES, params={"limit": 200})
        party.entries |= {entry["id"] for entry in answer.json()["data"]}
        return answer

    def look_up(self, party: Party) -> httpx.Response:
        owner, method = self.dice.choice(self.parties), self.dice.choice(("GET", "GET", "GET", "DELETE"))
        one = self.dice.choice(sorted(owner.entries) or ["12345"])
        path = f"{ENTRIES}/{one}" + (self.dice.choice(("", "/image", "/generations")) if method == "GET" else "")
        answer = party.client.http.request(method, path)
        if owner is not party:
            assert answer.status_code == 404
            assert one not in answer.text
        return httpx.Response(200, json={}) if "/image" in path else answer

    def record(self, party: Party) -> httpx.Response:
        owner = self.dice.choice(self.parties)
        one = self.dice.choice(owner.generations or ["0" * 32])
        answer = party.client.http.get(f"/v1/generations/{one}")
        if owner is not party:
            assert answer.status_code == 404
            assert one not in answer.text
        return answer

    def refused(self, party: Party) -> httpx.Response:
        other = self.dice.choice(self.parties)
        wrong = self.dice.choice(
            ({"prompt": ""}, {"prompt": "x", "cache": {"scope": other.name[:3]}}, {"prompt": "x", "size": "1x1"}, {})
        )
        return party.client.post(wrong)

    def stats(self, party: Party) -> httpx.Response:
        answer = party.client.http.get("/v1/stats")
        assert answer.json()["requests"] >= self.drawn[party.name]
        return answer

    def _wish(self, party: Party) -> dict[str, Any]:
        scope = self.dice.choice(("tenant", "user", "public"))
        wish: dict[str, Any] = {"prompt": f"a red cube beside {party.name}", "cache": {"scope": scope}}
        wish["user"] = self.dice.choice(("una", "ugo"))
        return wish | ({"seed": self.dice.randrange(3)} if self.dice.random() < 0.3 else {})


def test_random_requests_of_random_tenants_show_nothing_of_one_another(parties: dict[str, Party]) -> None:
    for party in parties.values():
        party.client.http.delete(ENTRIES, params={"all": "true"})
        party.generations.clear()
    prying = Prying(parties, seed=1)
    for _ in range(OPERATIONS):
        prying.step()
    assert prying.hits > 0
    assert all(party.entries for party in prying.parties)


def _entry(party: Party, entry_id: str) -> dict[str, Any]:
    return dict(party.client.http.get(f"{ENTRIES}/{entry_id}").json())


def _prompt(party: Party, entry_id: str) -> str:
    return str(_entry(party, entry_id)["prompt"])
