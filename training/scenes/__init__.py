"""Endless captioned scenes: what they hold, how they are drawn and how people would ask for them."""

from training.scenes.captions import Caption, caption
from training.scenes.drawing import render
from training.scenes.spec import (
    ATTRIBUTE_VALUES,
    EDIT_KINDS,
    NOVEL_PAIRS,
    EditKind,
    Scene,
    Split,
    Thing,
    edit,
    is_novel,
    sample_scene,
    split_of,
)

__all__ = [
    "ATTRIBUTE_VALUES",
    "EDIT_KINDS",
    "NOVEL_PAIRS",
    "Caption",
    "EditKind",
    "Scene",
    "Split",
    "Thing",
    "caption",
    "edit",
    "is_novel",
    "render",
    "sample_scene",
    "split_of",
]
