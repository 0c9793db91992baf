"""The page of a service that asks for keys, and one that draws one picture at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from browser import Page
from page_checks import serious_findings
from page_doings import DONE, ENTRIES, draw, look_for, press_button
from service_live import Client, LiveServer

from service.access import create_key
from service.access.identity import Rights

READY = "document.querySelector('#service').dataset.state === 'ready'"


@dataclass(frozen=True)
class Keyed:
    """A service with keys, and one of a tenant's and one of its operator's."""

    server: LiveServer
    tenant: str
    operator: str
    as_tenant: Client
    as_operator: Client


@pytest.fixture(scope="module")
def keyed(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    server = LiveServer(tmp_path_factory.mktemp("keyed"), model=str(resuming_model), threads="1", max_batch="1")
    server.data_dir.mkdir()
    tenant, _ = create_key(server.data_dir / "keys.json", "acme")
    operator, _ = create_key(server.data_dir / "keys.json", "desk", rights=Rights(operator=True))
    server.start()
    clients = (Client(server, tenant), Client(server, operator))
    yield Keyed(server, tenant, operator, *clients)
    for client in clients:
        client.http.close()
    server.stop()


@pytest.fixture
def locked(page: Page, keyed: Keyed) -> Page:
    """The page of a service with keys, none given yet."""
    page.screen(390, 800, mobile=True)
    page.prefer(color_scheme="light", reduced_motion="reduce")
    page.open(f"{keyed.server.url}/")
    page.run("sessionStorage.clear()")
    page.open(f"{keyed.server.url}/")
    page.wait("!document.querySelector('#key-form').hidden")
    page.problems.clear()
    return page


def give(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.press("Enter")


def test_a_key_is_asked_for_refused_taken_and_forgotten(locked: Page, keyed: Keyed) -> None:
    assert locked.run("document.activeElement.id") == "key"
    assert serious_findings(locked) == []
    give(locked, "hs_" + "x" * 43)
    locked.wait("!document.querySelector('#key-note').hidden")
    assert "not in force" in locked.text("#key-note")
    assert locked.run("document.activeElement.id") == "key"
    give(locked, keyed.tenant)
    locked.wait(READY)
    assert locked.run("document.querySelector('#key-form').hidden")
    draw(locked, "a locked box on a table")
    stored = "JSON.stringify([{ ...localStorage }, document.cookie, location.href])"
    assert keyed.tenant not in locked.run(stored)
    assert locked.run("Object.values({ ...sessionStorage })") == [keyed.tenant]
    locked.click("#forget-key")
    locked.wait("document.readyState === 'complete' && !document.querySelector('#key-form').hidden")
    assert locked.run("sessionStorage.length") == 0
    assert locked.run("document.querySelectorAll('#recent-list li').length") == 0


def test_a_tenant_sees_its_own_figures_and_deletes_all_of_its_own(locked: Page, keyed: Keyed) -> None:
    operator = keyed.as_operator
    operator.draw("what the operator drew")
    give(locked, keyed.tenant)
    locked.wait(READY)
    draw(locked, "a tenant's own box")
    operator.settle()
    locked.click("#to-operations")
    locked.wait("document.querySelectorAll('#figures .card').length === 3")
    assert "need an operator's key" in locked.text("#operations-note")
    assert locked.run("document.querySelector('#audit').hidden")
    look_for(locked, "")
    locked.wait(f"{ENTRIES} >= 1")
    assert "operator" not in locked.text("#cache-list")
    locked.click("#delete-all")
    locked.wait("document.querySelector('#sheet').open")
    press_button(locked, "#sheet", "Delete everything")
    locked.wait(f"!document.querySelector('#sheet').open && {ENTRIES} === 0")
    assert "Nothing is remembered yet" in locked.text("#cache-sum")
    assert keyed.as_tenant.http.get("/v1/cache/entries").json()["data"] == []
    assert len(operator.http.get("/v1/cache/entries").json()["data"]) >= 1


def test_an_operator_sees_the_whole_service(locked: Page, keyed: Keyed) -> None:
    give(locked, keyed.operator)
    locked.wait(READY)
    locked.click("#to-operations")
    locked.wait("document.querySelectorAll('#figures .card').length === 5")
    assert "The whole service" in locked.text("#operations-note")
    assert locked.problems == []


def test_a_picture_that_waits_says_where_it_stands(locked: Page, keyed: Keyed) -> None:
    give(locked, keyed.tenant)
    locked.wait(READY)
    client = keyed.as_tenant
    body = {"prompt": "one before it", "num_inference_steps": 200, "cache": {"mode": "off"}}
    ahead = [client.http.post("/v1/jobs", json=body).json()["id"] for _ in range(3)]
    locked.fill("#prompt", "one that waits")
    locked.click("#generate")
    locked.wait("/in the queue/.test(document.querySelector('#easel-note').textContent)")
    for job in ahead:
        client.http.delete(f"/v1/jobs/{job}")
    locked.wait(DONE, timeout=60)
    # The page forgets its job once it has shown the picture.
    keyed.server.wait(lambda: client.http.get("/v1/jobs").json()["data"] == [], "forgotten", seconds=30)
