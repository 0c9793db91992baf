"""Checks of accessibility that any view of the page must pass."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from browser import Page

SERIOUS = ("serious", "critical")


def serious_findings(page: Page, **options: Any) -> list[str]:
    """Run axe-core on what is shown, and return each serious or critical finding with the elements at fault."""
    if not page.run("typeof axe === 'object'"):
        page.run(_axe_source())
    found = page.run(f"axe.run(document, {json.dumps(options)}).then(({{ violations }}) => violations)")
    return [
        f"{one['id']}: {one['help']}: {[node['html'][:120] for node in one['nodes']]}"
        for one in found
        if one["impact"] in SERIOUS
    ]


def poor_contrast(page: Page) -> list[str]:
    """Return the visible texts below 4.5 to 1, the stricter of WCAG's AA bounds."""
    return list(page.run(_POOR_CONTRAST))


def small_targets(page: Page) -> list[str]:
    """Return the visible controls below 24 by 24 pixels (WCAG 2.2 AA), links inside a text left out."""
    return list(page.run(_SMALL_TARGETS))


def hangs_over(page: Page, width: int) -> bool:
    """Return whether the page has to be scrolled sideways."""
    return int(page.run("document.documentElement.scrollWidth")) > width


def _axe_source() -> str:
    spec = importlib.util.find_spec("axe_core_python")
    assert spec is not None
    assert spec.origin is not None
    source = (Path(spec.origin).parent / "axe.min.js").read_text()
    return f"(() => {{ {source} }})()"


_SMALL_TARGETS = r"""[...document.querySelectorAll('a, button, input, select, summary, textarea')]
    .filter((element) => element.checkVisibility() && !element.closest('.skip-link, p, .find-how'))
    .map((element) => [element, element.getBoundingClientRect()])
    .filter(([, { width, height }]) => width < 24 || height < 24)
    .map(([element, { width, height }]) => `${element.id || element.textContent} ${width}x${height}`)"""

_POOR_CONTRAST = r"""(() => {
    const rgb = (text) => { const [r, g, b, a = 1] = text.match(/[\d.]+/g).map(Number); return { r, g, b, a }; };
    const light = ({ r, g, b }) => [r, g, b].map((v) => v / 255)
        .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let at = element; at; at = at.parentElement) {
            const colour = rgb(getComputedStyle(at).backgroundColor);
            if (colour.a > 0.5) return colour;
        }
        return { r: 255, g: 255, b: 255 };
    };
    const poor = [];
    for (const element of document.querySelectorAll('body *')) {
        const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
        if (!own || !element.checkVisibility() || element.closest('.visually-hidden, .skip-link, noscript')) continue;
        const [a, b] = [light(rgb(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
        const ratio = (a + 0.05) / (b + 0.05);
        if (ratio < 4.5) poor.push(`${element.id || element.className || element.tagName} ${ratio.toFixed(2)}`);
    }
    return poor;
})()"""
