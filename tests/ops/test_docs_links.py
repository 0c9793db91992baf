from pathlib import Path

import pytest
from docs_pages import PAGES, ROOT, anchors, local_links, name_of


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in local_links(page):
        path, _, anchor = target.partition("#")
        place = (page.parent / path).resolve() if path else page
        there = place.exists() and ROOT in (place, *place.parents)
        if not there or (anchor and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


def test_every_picture_is_on_a_page() -> None:
    linked = {(page.parent / target.partition("#")[0]).resolve() for page in PAGES for target in local_links(page)}
    assert [path.name for path in (ROOT / "docs" / "images").iterdir() if path not in linked] == []


def test_every_document_is_in_the_list_of_documents() -> None:
    listed = set(local_links(ROOT / "docs" / "README.md"))
    assert {page.name for page in PAGES if page.parent == ROOT / "docs"} - {"README.md"} <= listed
