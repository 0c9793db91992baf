"""What the page shows of a picture that the safety checker refuses: nothing, and why."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import service_checkers
from browser import Page
from page_checks import serious_findings
from page_doings import DONE, begin, begin_from, draw
from page_pictures import picture_file
from service_checkers import STEER
from service_live import Client, live

REFUSED = "document.querySelector('#stage').dataset.state === 'refused' && document.querySelector('#stop').hidden"


@pytest.fixture(scope="module")
def guarded(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service whose checker refuses what is asked for with the word "forbidden"."""
    folder = tmp_path_factory.mktemp("guarded-page")
    order = folder / "checker.order"
    order.write_text("pass")
    order.with_suffix(".version").write_text("v1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(STEER, str(order))
        rooms = [str(Path(service_checkers.__file__).parent), os.environ.get("PYTHONPATH", "")]
        patch.setenv("PYTHONPATH", os.pathsep.join(rooms))
        with live(folder, model=str(resuming_model), threads="1", safety="service_checkers:Steered") as server:
            client = Client(server)
            yield client
            client.settle()
            client.http.close()


@pytest.fixture
def watched(page: Page, guarded: Client) -> Page:
    """The page of that service."""
    page.screen(1280, 800)
    page.prefer(color_scheme="light", reduced_motion="reduce")
    page.open(f"{guarded.server.url}/")
    page.wait("document.querySelector('#service').dataset.state === 'ready'")
    page.problems.clear()
    return page


def said(page: Page) -> str:
    page.wait(REFUSED, timeout=60)
    assert page.text("#easel-note") == "Not shown"
    assert page.run("document.querySelector('#picture').hidden")
    assert page.run("document.querySelector('#verdict').hidden")
    return page.text("#error")


def test_a_refused_picture_is_not_shown_and_said_so(watched: Page, guarded: Client) -> None:
    entries = guarded.entries()
    begin(watched, "a forbidden harp on a hill")
    text = said(watched)
    assert text.startswith("The safety checker of this service refuses the picture.")
    assert "Nothing of it was kept." in text
    assert text in watched.run("document.querySelector('#announce').textContent")
    assert serious_findings(watched) == []
    assert guarded.entries() == entries
    draw(watched, "a harmless harp on a hill")
    assert watched.run("document.querySelector('#error').hidden")


def test_so_is_a_refused_edit(watched: Page, tmp_path: Path) -> None:
    begin_from(watched, picture_file(tmp_path))
    begin(watched, "a forbidden ball over teal")
    assert "another picture to begin from, may pass" in said(watched)
    draw(watched, "a harmless ball over teal")
    assert "Over the given picture" in watched.text("#verdict-line")
    assert watched.run(DONE)
