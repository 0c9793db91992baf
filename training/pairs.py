"""Pairs of prompts as a user's session produces them: a scene, and then a rewording or an edit of it."""

from dataclasses import dataclass

import numpy as np

from training.scenes import EDIT_KINDS, Caption, Scene, caption, edit, sample_scene

# What follows a prompt in a session: the same again, other words, or one thing changed; each kind of edit is there
# often enough to be measured. "retry" is the identical text.
SESSION_MIX: dict[str, float] = {"retry": 0.2, "wording": 0.3} | {
    kind: 0.5 / (len(EDIT_KINDS) - 1) for kind in EDIT_KINDS if kind != "wording"
}


@dataclass(frozen=True, slots=True)
class Pair:
    """A source prompt, the prompt that follows it, and how they differ (a key of `SESSION_MIX`)."""

    source: Caption
    target: Caption
    kind: str


def sample_pairs(seed: int, count: int, mix: dict[str, float] | None = None) -> list[Pair]:
    """Draw `count` pairs over held-out scenes; the same arguments give the same pairs."""
    weights = mix or SESSION_MIX
    rng = np.random.default_rng(seed)
    kinds = list(weights)
    odds = np.array([weights[kind] for kind in kinds])
    return [_pair(rng, kinds[pick]) for pick in rng.choice(len(kinds), size=count, p=odds / odds.sum())]


def _pair(rng: np.random.Generator, kind: str) -> Pair:
    source = caption(sample_scene(rng, split="heldout"), rng)
    return Pair(source=source, target=_follow(source, rng, kind), kind=kind)


def _follow(source: Caption, rng: np.random.Generator, kind: str) -> Caption:
    if kind == "retry":
        return source
    if kind == "wording":
        return caption(source.scene, rng)
    change = next(known for known in EDIT_KINDS if known == kind)
    return nearest_wording(source, edit(source.scene, rng, change), rng)


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
