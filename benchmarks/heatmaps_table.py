"""The table of `benchmarks/heatmaps.py`."""

from typing import Any

from benchmarks.facts import interval

METHODS = {
    "smooth grad-cam++": "Smooth Grad-CAM++",
    "grad-cam++": "Grad-CAM++",
    "grad-cam": "Grad-CAM",
    "hirescam": "HiResCAM",
    "centre": "Gaussian in the centre",
    "random": "random cells",
}
"""Those that differ; the report has all."""


def heatmaps_table(report: dict[str, Any]) -> list[str]:
    """One row per method: where its maps lie, and whether they depend on what is asked."""
    how, groups = report["settings"], report["groups"]
    area = groups["two things"]["area"]["energy"]["value"]
    return [
        "| | one thing: energy | pointing | two things: energy | energy on the *other* thing | pointing "
        "| agreement with random heads | ms |",
        "|---|---|---|---|---|---|---|---|",
        *[_row(method, report) for method in METHODS],
        "",
        f"{report['scenes']} held-out scenes, half of each kind, 95 % intervals over scenes; energy: share of a map "
        f"inside the thing's outline (which covers {area:.2f} of the picture); pointing: how often the map's highest "
        "pixel lies inside; agreement: Spearman's correlation with the map of the same network with random heads "
        f"(Adebayo et al. 2018). n = {how['samples']}, sigma = {how['sigma']}, {how['cells']}x{how['cells']} "
        "cells; times on one busy core, to be compared with each other only.",
    ]


def _row(method: str, report: dict[str, Any]) -> str:
    one, two = (report["groups"][group][method] for group in ("one thing", "two things"))
    figures = [one["energy"], one["pointing"], two["energy"], two["energy on the other"], two["pointing"]]
    cells = [interval(figure, digits=digits) for figure, digits in zip(figures, (3, 2, 3, 3, 2), strict=True)]
    random = report["randomised"].get(method)
    cells.append("–" if random is None else interval(random["heads"], digits=2))
    spent = report["milliseconds"][method]
    return f"| {METHODS[method]} | " + " | ".join([*cells, "–" if random is None else f"{spent:.0f}"]) + " |"
