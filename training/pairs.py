"""Pairs of prompts as a user's session produces them: a scene, and then a rewording or an edit of it.

`python -m training.pairs` writes those that `headstart calibrate matching` fits the shipped tables on.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from service.calibrate.matching.pairs import SHIPPED, MatchPair, write_pairs
from training.scenes import EDIT_KINDS, Caption, Scene, caption, edit, sample_scene

# What follows a prompt in a session: the same again, other words, or one thing changed; each kind of edit is there
# often enough to be measured. "retry" is the identical text.
SESSION_MIX: dict[str, float] = {"retry": 0.2, "wording": 0.3} | {
    kind: 0.5 / (len(EDIT_KINDS) - 1) for kind in EDIT_KINDS if kind != "wording"
}


TUNING_SEED, TUNING_PAIRS = 1001, 800


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
    return Pair(source=source, target=follow(source, rng, kind), kind=kind)


def follow(source: Caption, rng: np.random.Generator, kind: str) -> Caption:
    """Return what a session may ask next after `source`, by a kind of `SESSION_MIX`."""
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


def main() -> None:
    """Write the pairs beside both shipped models; repeats tell nothing, so there are none."""
    mix = {kind: odds for kind, odds in SESSION_MIX.items() if kind != "retry"}
    drawn = sample_pairs(TUNING_SEED, TUNING_PAIRS, mix)
    pairs = [MatchPair(pair.source.text, pair.target.text, pair.kind) for pair in drawn]
    for model in ("scenes-unet", "scenes-dit"):
        write_pairs(pairs, Path("models") / model / SHIPPED)


if __name__ == "__main__":
    main()
