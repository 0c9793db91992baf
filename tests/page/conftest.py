from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import Page, chromium, find_chromium
from service_live import LiveServer


@pytest.fixture(scope="session")
def page(live_service: LiveServer) -> Iterator[Page]:
    path = find_chromium()
    if path is None:
        pytest.skip("no Chromium on this machine (Debian: apt-get install chromium)")
    with chromium(path) as page:
        yield page


@pytest.fixture
def fresh(page: Page, live_service: LiveServer) -> Page:
    """The page just opened, on a desktop, nothing complained of yet."""
    page.screen(1280, 800)
    page.prefer(color_scheme="light", reduced_motion="no-preference")
    page.open(f"{live_service.url}/")
    page.wait("document.querySelector('#service').dataset.state === 'ready'")
    page.problems.clear()
    return page


@pytest.fixture
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots go, for a person to look at."""
    return tmp_path_factory.mktemp("screenshots")
