from __future__ import annotations

import numpy as np
import pytest

from training.scenes import (
    ATTRIBUTE_VALUES,
    EDIT_KINDS,
    NOVEL_PAIRS,
    Split,
    caption,
    edit,
    is_novel,
    render,
    sample_scene,
    split_of,
)
from training.scenes import captions as wording

WORDS = {
    "shape": wording._SHAPE_WORDS,
    "colour": wording._COLOUR_WORDS,
    "size": wording._SIZE_WORDS,
    "background": wording._BACKGROUND_WORDS,
}


def test_same_seed_same_scene_caption_and_picture() -> None:
    def draw() -> tuple[str, bytes]:
        rng = np.random.default_rng(7)
        scene = sample_scene(rng)
        return caption(scene, rng).text, render(scene, rng).tobytes()

    assert draw() == draw()


def test_pictures_are_rgb_bytes_that_differ_between_scenes() -> None:
    rng = np.random.default_rng(1)
    first, second = (render(sample_scene(rng), rng) for _ in range(2))
    assert first.shape == (128, 128, 3)
    assert first.dtype == np.uint8
    assert np.abs(first.astype(int) - second).mean() > 5


@pytest.mark.parametrize("split", ["train", "heldout", "novel"])
def test_a_split_yields_only_its_own_scenes(split: Split) -> None:
    rng = np.random.default_rng(2)
    scenes = [sample_scene(rng, split) for _ in range(1500)]
    assert {split_of(scene) for scene in scenes} == {split}
    pairs = {(thing.shape, thing.colour) for scene in scenes for thing in scene.things}
    assert bool(pairs & NOVEL_PAIRS) == (split == "novel")


def test_an_unknown_split_or_edit_is_refused() -> None:
    rng = np.random.default_rng(3)
    with pytest.raises(ValueError, match="split"):
        sample_scene(rng, "test")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="edit"):
        edit(sample_scene(rng), rng, "mood")  # type: ignore[arg-type]


def test_attributes_are_known_names_with_known_values() -> None:
    rng = np.random.default_rng(4)
    for _ in range(200):
        facts = sample_scene(rng).attributes()
        assert len(facts) == (7 if facts["count"] == "1" else 11)
        assert all(value in ATTRIBUTE_VALUES[name] for name, value in facts.items())


def test_a_caption_says_what_it_claims_to_mention_and_nothing_else() -> None:
    rng = np.random.default_rng(5)
    for _ in range(500):
        one = caption(sample_scene(rng), rng)
        facts, text = one.scene.attributes(), one.text.lower()
        assert one.mentioned <= facts.keys()
        assert {"count", "a.shape"} <= one.mentioned
        for name, value in facts.items():
            words = WORDS.get(name.split(".")[-1])
            if words is not None and name in one.mentioned:
                assert any(word in text for word in words[value]), (name, text)
        if "background" not in one.mentioned:
            assert not any(w in text for ws in wording._BACKGROUND_WORDS.values() for w in ws)


def test_two_things_always_come_with_their_relation() -> None:
    rng = np.random.default_rng(6)
    pairs = [scene for scene in (sample_scene(rng) for _ in range(200)) if len(scene.things) == 2]
    assert pairs
    assert all("layout" in caption(scene, rng).mentioned for scene in pairs)


def test_wording_varies() -> None:
    rng = np.random.default_rng(8)
    scene = sample_scene(rng)
    assert len({caption(scene, rng).text for _ in range(60)}) > 25


@pytest.mark.parametrize("kind", EDIT_KINDS)
def test_an_edit_changes_one_kind_of_attribute_and_brings_in_no_novel_pair(kind: str) -> None:
    rng = np.random.default_rng(9)
    ending = {"wording": "", "position": "layout"}.get(kind, kind)
    for _ in range(100):
        before = sample_scene(rng)
        after = edit(before, rng, kind)  # type: ignore[arg-type]
        old, new = before.attributes(), after.attributes()
        changed = {name for name in old if old[name] != new[name]}
        assert len(changed) == (0 if kind == "wording" else 1)
        assert all(name.endswith(ending) for name in changed)
        assert not is_novel(after)
