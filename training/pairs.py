"""Pairs of prompts as a user's session produces them: a scene, and then a rewording or an edit of it."""

from dataclasses import dataclass

import numpy as np

from training.scenes import EDIT_KINDS, Caption, Scene, caption, edit, sample_scene
from training.scenes.spec import EditKind

# A session mostly retries and rewords; each kind of edit is there often enough to be measured.
SESSION_MIX: dict[EditKind, float] = {
    kind: 0.4 if kind == "wording" else 0.6 / (len(EDIT_KINDS) - 1) for kind in EDIT_KINDS
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A source prompt, the prompt that follows it, and how they differ (an `EDIT_KINDS` member)."""

    source: Caption
    target: Caption
    kind: EditKind


def sample_pairs(seed: int, count: int, mix: dict[EditKind, float] | None = None) -> list[Pair]:
    """Draw `count` pairs over held-out scenes; the same arguments give the same pairs."""
    weights = mix or SESSION_MIX
    rng = np.random.default_rng(seed)
    kinds = list(weights)
    odds = np.array([weights[kind] for kind in kinds])
    return [_pair(rng, kinds[pick]) for pick in rng.choice(len(kinds), size=count, p=odds / odds.sum())]


def _pair(rng: np.random.Generator, kind: EditKind) -> Pair:
    source = caption(sample_scene(rng, split="heldout"), rng)
    scene = edit(source.scene, rng, kind)
    target = caption(scene, rng) if kind == "wording" else nearest_wording(source, scene, rng)
    return Pair(source=source, target=target, kind=kind)


def nearest_wording(old: Caption, scene: Scene, rng: np.random.Generator) -> Caption:
    """Describe `scene` as a user who edits `old` would: change a word and leave the rest.

    Returns:
        Of many captions of the scene the one fewest word edits away from the old text, never the old text itself.
    """
    words = old.text.lower().split()
    fresh = [one for one in (caption(scene, rng) for _ in range(60)) if one.text != old.text]
    return min(fresh, key=lambda one: _distance(words, one.text.lower().split()))


def _distance(a: list[str], b: list[str]) -> int:
    """Words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(b) + 1))
    for i, word in enumerate(a, start=1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(b, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (word != other))
    return row[-1]
