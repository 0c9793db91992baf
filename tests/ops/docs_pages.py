"""The documents as tests read them: pages, links, anchors, code."""

import re
from collections.abc import Iterator
from pathlib import Path

from ops_files import ROOT

OTHERS = (ROOT / "models" / "README.md", ROOT / "benchmarks" / "RESULTS.md")
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *OTHERS])
FENCE = re.compile(r"^ *```.*?^ *```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose_of(page: Path) -> str:
    return FENCE.sub("", text_of(page))


def code_of(page: Path) -> Iterator[str]:
    """Yield every line of code: of fenced blocks, continued lines joined, and spans."""
    for block in FENCE.findall(text_of(page)):
        yield from (line.strip() for line in block.replace("\\\n", " ").splitlines()[1:-1])
    yield from SPAN.findall(prose_of(page))


def local_links(page: Path) -> Iterator[str]:
    for target in LINK.findall(SPAN.sub("", prose_of(page))):
        if not re.match(r"[a-z]+:", target):
            yield target


def anchors(page: Path) -> set[str]:
    """What GitHub makes of the page's headings."""
    found: set[str] = set()
    for heading in HEADING.findall(prose_of(page)):
        words = LINK.sub(lambda link: link.group(0).split("](")[0].lstrip("!["), heading).lower().strip()
        slug = "".join(letter for letter in words.replace(" ", "-") if letter.isalnum() or letter in "-_")
        copies = sum(one == slug or re.fullmatch(rf"{re.escape(slug)}-\d+", one) is not None for one in found)
        found.add(f"{slug}-{copies}" if copies else slug)
    return found
