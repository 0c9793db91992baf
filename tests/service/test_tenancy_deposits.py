"""What lies ready for tenants (jobs, stored answers, pictures by URL): their own, told no more than at once."""

import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from service_live import Client, LiveServer, live

from service.access import create_key
from service.access.identity import Rights

SHARES = Rights(share_write=True, share_read=True, operator=True)
NAMES = ("anna", "bert", "cora")
PUBLIC: dict[str, Any] = {"scope": "public"}
MISSING = "0" * 32


@pytest.fixture(scope="module")
def server(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("deposits")
    (folder / "encryption").write_text(secrets.token_hex(32))
    settings = {"encryption_key_file": str(folder / "encryption"), "public_quarantine_seconds": "0"}
    keys = folder / "keys.json"
    create_key(keys, "nobody")
    with live(folder, model=str(resuming_model), threads="1", keys_file=str(keys), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def tenants(server: LiveServer) -> Iterator[dict[str, Client]]:
    keys = server.folder / "keys.json"
    found = {name: Client(server, create_key(keys, name, rights=SHARES)[0]) for name in NAMES}
    server.wait(lambda: found["cora"].http.get("/v1/models").status_code == 200, "aware of the keys")
    yield found
    for client in found.values():
        client.http.close()


def ended(client: Client, body: dict[str, Any]) -> dict[str, Any]:
    """Return a job of `client`'s once it has ended."""
    taken = client.http.post("/v1/jobs", json={"num_inference_steps": 10, **body})
    assert taken.status_code == 202, taken.text
    path = f"/v1/jobs/{taken.json()['id']}"
    client.server.wait(lambda: client.http.get(path).json()["finished"] is not None, "ended")
    return dict(client.http.get(path).json())


def test_another_s_job_and_picture_are_as_absent_as_missing_ones(tenants: dict[str, Client]) -> None:
    anna, bert = tenants["anna"], tenants["bert"]
    job = ended(anna, {"prompt": "a lamp"})
    (item,) = job["result"]["data"]
    ways = (
        ("GET", "/v1/jobs/{}", job["id"]),
        ("GET", "/v1/jobs/{}/events", job["id"]),
        ("POST", "/v1/jobs/{}/cancel", job["id"]),
        ("DELETE", "/v1/jobs/{}", job["id"]),
        ("GET", "/v1/images/{}", item["id"]),
        ("HEAD", "/v1/images/{}", item["id"]),
        ("DELETE", "/v1/images/{}", item["id"]),
    )
    for method, path, theirs in ways:
        other, absent = (bert.http.request(method, path.format(one)) for one in (theirs, MISSING))
        assert (other.status_code, other.text) == (404, absent.text), path
    assert bert.http.get("/v1/jobs").json()["data"] == []
    assert [one["id"] for one in anna.http.get("/v1/jobs").json()["data"]] == [job["id"]]
    assert anna.http.get(item["url"]).status_code == 200
    assert httpx.get(item["url"]).status_code == 401


def test_an_idempotency_key_is_the_tenant_s(tenants: dict[str, Client]) -> None:
    drawn = []
    for name in ("anna", "bert", "anna"):
        headers = {"Idempotency-Key": "one"}
        answer = tenants[name].post({"prompt": "a chair", "num_inference_steps": 2}, headers=headers)
        drawn.append((answer.headers["idempotency-status"], answer.json()["data"][0]["id"]))
    assert [status for status, _ in drawn] == ["stored", "stored", "replayed"]
    assert drawn[0][1] == drawn[2][1] != drawn[1][1]
    other = tenants["bert"].post({"prompt": "a table"}, headers={"Idempotency-Key": "one"})
    assert other.status_code == 422


def test_jobs_and_stored_answers_tell_no_more_of_what_others_share(tenants: dict[str, Client]) -> None:
    for name in ("anna", "bert"):
        tenants[name].draw("a round tower", num_inference_steps=10, cache=PUBLIC)
        tenants[name].settle()
    cora, body = tenants["cora"], {"prompt": "a round tower", "cache": PUBLIC}
    job = ended(cora, {**body, "partial_images": 3})
    assert job["progress"] == [{"step": 10, "steps": 10, "first_step": 0}]
    told = [job["result"]["data"][0]["cache"]]
    for _ in range(2):
        headers = {"Idempotency-Key": "two"}
        told.append(cora.draw(**body, num_inference_steps=10, headers=headers)["cache"])
    for cache in told:
        assert (cache["verdict"], cache["hidden"], cache["source"]) == ("APPROX", True, None)
        assert (cache["similarity"], cache["skipped_steps"], cache["saved_gpu_seconds"]) == (None, 0, 0.0)


@pytest.mark.parametrize("own", [{"min_similarity": 0.01}, {"max_skip_ratio": 0.99}, "max-age=86400", "min-fresh=1"])
def test_bounds_of_one_s_own_cannot_feel_for_what_is_hidden(tenants: dict[str, Client], own: Any) -> None:
    for name in ("anna", "bert"):
        tenants[name].draw("a square tower", num_inference_steps=10, cache=PUBLIC)
        tenants[name].settle()
    cache, headers = ({**PUBLIC, **own}, {}) if isinstance(own, dict) else (PUBLIC, {"Cache-Control": own})
    wish: dict[str, Any] = {"prompt": "a square tower", "num_inference_steps": 10}
    bounded = tenants["cora"].draw(**wish, cache={**cache, "store": False}, headers=headers)["cache"]
    assert (bounded["verdict"], bounded["hidden"]) == ("MISS", True)
    assert tenants["cora"].draw(**wish, cache={**PUBLIC, "store": False})["cache"]["verdict"] == "APPROX"


def test_what_lies_ready_is_encrypted(server: LiveServer, tenants: dict[str, Client]) -> None:
    anna = tenants["anna"]
    headers = {"Idempotency-Key": "three"}
    first = anna.post({"prompt": "a plain secret", "num_inference_steps": 2}, headers=headers)
    url = anna.draw("a bowl", num_inference_steps=2, response_format="url")["url"]
    kept = [path for path in server.data_dir.rglob("deposits/*/*/*") if path.is_file()]
    assert {path.parts[-3] for path in kept} == {"answer", "image"}
    for path in kept:
        assert path.read_bytes().startswith(b"HSE\x01")
    assert anna.http.get(url).content.startswith(b"\x89PNG")
    again = anna.post({"prompt": "a plain secret", "num_inference_steps": 2}, headers=headers)
    assert again.content == first.content
