"""Every view for everybody: axe-core, contrast, size of targets, nothing over the edge, nothing from elsewhere."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from browser import Page
from page_checks import hangs_over, poor_contrast, serious_findings, small_targets
from page_doings import ENTRIES, SHEET, draw, look_for, open_entry
from service_live import Client, LiveServer

PROMPT = "a blue jug on a round table"


def _result(page: Page) -> None:
    draw(page, PROMPT)
    page.run("document.querySelector('#settings').open = true")


def _over(page: Page) -> None:
    draw(page, PROMPT)
    page.click("#use")
    page.wait("!document.querySelector('#given-facts').hidden")
    page.run("document.querySelector('#masking').open = true")
    page.wait("document.querySelector('#paint').hasAttribute('data-masking')")
    page.drag("#mask-canvas", (0.2, 0.3), (0.8, 0.4))
    draw(page, f"{PROMPT}, painted over")


def _record(page: Page) -> None:
    draw(page, PROMPT)
    page.click("#how")
    page.wait(SHEET)
    page.run("document.querySelectorAll('#sheet details').forEach((one) => { one.open = true; })")


def _entries(page: Page) -> None:
    look_for(page, "")
    page.wait(f"{ENTRIES} > 0")


def _entry(page: Page) -> None:
    open_entry(page, PROMPT)
    page.run("[...document.querySelectorAll('#sheet button')].find((one) => one.textContent === 'Delete it').click()")


def _neighbours(page: Page) -> None:
    look_for(page, PROMPT, near=True)
    page.wait("!!document.querySelector('.bar')")


def _operations(page: Page) -> None:
    page.click("#to-operations")
    page.wait("document.querySelectorAll('#figures .card').length === 5 && !!document.querySelector('#audit-body *')")


VIEWS: dict[str, Callable[[Page], None]] = {
    "empty": lambda page: None,
    "result": _result,
    "over": _over,
    "record": _record,
    "entries": _entries,
    "entry": _entry,
    "neighbours": _neighbours,
    "operations": _operations,
}


@pytest.fixture(scope="module", autouse=True)
def drawn(live_client: Client) -> None:
    live_client.draw(PROMPT)
    live_client.draw("a blue jug on a large round table")
    live_client.settle()


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("width", [320, 1280])
def test_view_is_accessible_in_both_schemes_and_fits(fresh: Page, view: str, width: int, shots: Path) -> None:
    fresh.screen(width, 800, mobile=width < 500)
    fresh.prefer(color_scheme="light", reduced_motion="reduce")
    VIEWS[view](fresh)
    for scheme in ("light", "dark"):
        fresh.prefer(color_scheme=scheme, reduced_motion="reduce")
        assert serious_findings(fresh) == [], scheme
        assert poor_contrast(fresh) == [], scheme
        fresh.screenshot(shots / f"{view}-{width}-{scheme}.png")
    assert small_targets(fresh) == []
    assert not hangs_over(fresh, width)
    assert fresh.run("document.getAnimations().length") == 0
    assert fresh.problems == []


def test_axe_does_find_what_is_wrong(fresh: Page) -> None:
    fresh.run("document.querySelector('label[for=prompt]').remove()")
    fresh.run("document.querySelector('#prompt').placeholder = ''")
    assert any(finding.startswith("label:") for finding in serious_findings(fresh))


def test_all_views_together_ask_nobody_else(fresh: Page, live_service: LiveServer) -> None:
    for view in VIEWS.values():
        fresh.run("document.querySelector('#sheet').close()")
        fresh.run("location.hash = 'draw'")
        fresh.wait("!document.querySelector('#view-draw').hidden")
        view(fresh)
    loaded = "performance.getEntriesByType('resource').map(({ name }) => new URL(name).origin)"
    assert set(fresh.run(loaded)) == {live_service.url}


def test_the_policy_lets_no_foreign_or_inline_script_run(fresh: Page, live_service: LiveServer) -> None:
    policy = httpx.get(f"{live_service.url}/").headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    fresh.run("""(() => {
        const script = document.createElement('script');
        script.textContent = 'window.ran = true';
        document.body.append(script);
    })()""")
    assert fresh.run("window.ran === undefined")
    assert fresh.problems != []  # and says so
