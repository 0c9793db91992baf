"""A picture of why there was a hit: the cached and the delivered picture, each beside where the judge looks."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from service.judges.heatmap import Explainer, Heatmap

_TITLES = ("cached", "what matches", "delivered", "what was asked for")
_GAP, _TITLE = 6, 14
_STRENGTH = 0.75


def heatmap_sheet(judge: Explainer, cached: NDArray[np.uint8], delivered: NDArray[np.uint8], prompt: str) -> bytes:
    """Return a PNG of four panels: a cached picture, which part of it matches a prompt, and likewise the delivered.

    Args:
        judge: makes the maps.
        cached: the picture a run was resumed from, RGB [H, W, 3].
        delivered: what came of it, RGB [H, W, 3].
        prompt: the new one.

    Raises:
        HeatmapError: the judge cannot read the prompt, or the pictures have the wrong size.
    """
    match, answer = judge.match_map(cached, prompt), judge.answer_map(delivered, prompt)
    panels = (cached, overlaid(cached, match), delivered, overlaid(delivered, answer))
    height = max(panel.shape[0] for panel in panels)
    width = sum(panel.shape[1] + _GAP for panel in panels) + _GAP
    sheet = Image.new("RGB", (width, height + _TITLE + 2 * _GAP), "white")
    pen, left = ImageDraw.Draw(sheet), _GAP
    for title, panel in zip(_TITLES, panels, strict=True):
        pen.text((left, 2), title, fill="black")
        sheet.paste(Image.fromarray(panel), (left, _TITLE + _GAP))
        left += panel.shape[1] + _GAP
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def overlaid(picture: NDArray[np.uint8], heatmap: Heatmap) -> NDArray[np.uint8]:
    """Return a picture [H, W, 3], greyed, under a map [H, W] in [0, 1]: black, red, yellow, white for 0 to 1."""
    grey = picture.mean(axis=-1, keepdims=True) / 255
    heat = np.clip(3.0 * heatmap[..., None] - np.arange(3.0), 0.0, 1.0)
    share = _STRENGTH * heatmap[..., None]
    mixed = (1 - share) * grey + share * heat
    return np.asarray(np.clip(mixed, 0, 1) * 255 + 0.5, dtype=np.uint8)
