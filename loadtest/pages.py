"""A report as a page of HTML that needs nothing else, and as Markdown with its plots beside it."""

import html
import re
from collections.abc import Sequence
from pathlib import Path

from loadtest.blocks import Block, Figure, Heading, Paragraph, Table, Tiles
from loadtest.report import Report, write_json
from loadtest.story import tell

TITLE = "Load test"
VIEWPORT = '<meta name="viewport" content="width=device-width, initial-scale=1">'
CSS = """
:root { color-scheme: light dark; --ink: #212529; --soft: #6c757d; --page: #f8f9fa; --card: #fff; --line: #dee2e6;
  --warn: #fff3bf; --warn-ink: #5f3b00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9ecef; --soft: #adb5bd; --page: #16191d; --card: #212529;
  --line: #495057; --warn: #4a3500; --warn-ink: #ffe8a3; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.6rem; margin: 0 0 .25rem; } h2 { font-size: 1.2rem; margin: 2.25rem 0 .75rem; }
p { margin: .5rem 0; }
.warning { background: var(--warn); color: var(--warn-ink); padding: .6rem .9rem; border-radius: .4rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem; }
.tile dt, .tile .remark { color: var(--soft); font-size: .85rem; } .tile dd { margin: 0; }
.tile .value { font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; }
figure { margin: 1rem 0; padding: .75rem; background: #fff; border: 1px solid var(--line); border-radius: .5rem; }
figure svg { display: block; width: 100%; height: auto; }
figcaption { color: #495057; font-size: .85rem; margin-top: .5rem; }
.scroll { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .7rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.text, th.text { text-align: left; white-space: normal; }
thead th { color: var(--soft); font-weight: 600; }
"""
_UNIT = re.compile(r"(?<=\d) (?=s\b)")
TEXT_HEADS = ("what the client saw", "reason", "Cache-Status", "value")


def write_pages(report: Report, folder: Path) -> None:
    """Write `report.html`, `report.md` with its plots, and `report.json` to a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    blocks = tell(report)
    (folder / "report.html").write_text(as_html(blocks), encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(blocks), encoding="utf-8")
    for block in blocks:
        if isinstance(block, Figure):
            (folder / f"{block.name}.svg").write_text(block.svg, encoding="utf-8")
    write_json(folder / "report.json", report)


def as_html(blocks: Sequence[Block]) -> str:
    """Return the page."""
    body = "\n".join(_html(block) for block in blocks)
    head = f'<meta charset="utf-8">{VIEWPORT}<title>{TITLE}</title>'
    return (
        f'<!doctype html>\n<html lang="en">\n<head>{head}<style>{CSS}</style></head>\n'
        f"<body><main>\n<h1>{TITLE}</h1>\n{body}\n</main></body>\n</html>\n"
    )


def as_markdown(blocks: Sequence[Block]) -> str:
    """Return the text; its plots are files beside it."""
    return f"# {TITLE}\n\n" + "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _html(block: Block) -> str:
    match block:
        case Heading(text):
            return f"<h2>{html.escape(text)}</h2>"
        case Paragraph(text, warning):
            return (
                f'<p class="warning" role="note">{html.escape(text)}</p>'
                if warning
                else f"<p>{html.escape(text)}</p>"
            )
        case Tiles(tiles):
            return '<dl class="tiles">' + "".join(_tile(*tile) for tile in tiles) + "</dl>"
        case Figure(_, svg, caption):
            words = html.escape(caption)
            labelled = svg.replace("<svg ", f'<svg role="img" aria-label="{words}" ', 1)
            return f"<figure>{labelled}<figcaption>{words}</figcaption></figure>"
        case Table(head, rows):
            return _html_table(head, rows)


def _tile(title: str, value: str, remark: str) -> str:
    title, value, remark = (_UNIT.sub("&nbsp;", html.escape(text)) for text in (title, value, remark))
    return (
        f'<div class="tile"><dt>{title}</dt><dd><div class="value">{value}</div>'
        f'<div class="remark">{remark}</div></dd></div>'
    )


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    kinds = [' class="text"' if title in TEXT_HEADS else "" for title in head]
    titles = "".join(
        f'<th scope="col"{kind}>{html.escape(text)}</th>' for kind, text in zip(kinds, head, strict=True)
    )
    lines = [
        "<tr>"
        + "".join(f"<td{kind}>{html.escape(text)}</td>" for kind, text in zip(kinds, row, strict=True))
        + "</tr>"
        for row in rows
    ]
    table = f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>'


def _markdown(block: Block) -> str:
    match block:
        case Heading(text):
            return f"## {text}"
        case Paragraph(text, warning):
            return f"> **{text}**" if warning else text
        case Tiles(tiles):
            return _markdown_table(("", "", ""), tiles)
        case Figure(name, _, caption):
            return f"![{caption}]({name}.svg)\n\n{caption}"
        case Table(head, rows):
            return _markdown_table(head, rows)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines)
