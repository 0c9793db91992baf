"""Pairs of prompts as a user's session produces them: a scene, and then a rewording or an edit of it."""

from dataclasses import dataclass

import numpy as np

from training.scenes import EDIT_KINDS, Caption, caption, edit, sample_scene

# A session mostly retries and rewords; each kind of edit is there often enough to be measured.
SESSION_MIX = {"wording": 0.4} | {kind: 0.6 / (len(EDIT_KINDS) - 1) for kind in EDIT_KINDS if kind != "wording"}


@dataclass(frozen=True, slots=True)
class Pair:
    """A source prompt, the prompt that follows it, and how they differ (an `EDIT_KINDS` member)."""

    source: Caption
    target: Caption
    kind: str


def sample_pairs(seed: int, count: int, mix: dict[str, float] | None = None) -> list[Pair]:
    """Draw `count` pairs over held-out scenes; the same arguments give the same pairs."""
    weights = mix or SESSION_MIX
    rng = np.random.default_rng(seed)
    kinds = rng.choice(list(weights), size=count, p=np.array(list(weights.values())) / sum(weights.values()))
    return [_pair(rng, str(kind)) for kind in kinds]


def _pair(rng: np.random.Generator, kind: str) -> Pair:
    scene = sample_scene(rng, split="heldout")
    return Pair(source=caption(scene, rng), target=caption(edit(scene, rng, kind), rng), kind=kind)
