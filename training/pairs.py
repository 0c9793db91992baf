"""Pairs of prompts as a user's session produces them: a scene, and then a rewording or an edit of it.

`python -m training.pairs` writes those that `headstart calibrate matching` fits the shipped tables on: what a cache
full of such sessions' first pictures proposes for what follows, from the same session or from another that is nearer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.calibrate.matching.pairs import SHIPPED, MatchPair, proposed, write_pairs
from service.embedder import Embedder
from training.scenes import EDIT_KINDS, Caption, Scene, caption, edit, sample_scene

# What follows a prompt in a session: the same again, other words, or one thing changed; each kind of edit is there
# often enough to be measured. "retry" is the identical text.
SESSION_MIX: dict[str, float] = {"retry": 0.2, "wording": 0.3} | {
    kind: 0.5 / (len(EDIT_KINDS) - 1) for kind in EDIT_KINDS if kind != "wording"
}


TUNING_SEED, TUNING_SESSIONS = 1001, 1000
ANOTHERS = "another session's"
"""Kind of a pair whose source is not of the same session."""


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


def proposals(sessions: Sequence[Pair], embed: Callable[[str], NDArray[np.float32]]) -> list[MatchPair]:
    """Return what a cache of all that begins a session would propose for what follows in each; see `proposed`.

    Args:
        sessions: what begins each, and what follows.
        embed: unit vector of a text.
    """
    sources = [session.source.text for session in sessions]
    known = np.stack([embed(text) for text in sources])
    found: list[MatchPair] = []
    for session in sessions:
        pair = proposed(session.target.text, sources, known @ embed(session.target.text))
        if pair is not None:
            own = pair.source == session.source.text
            found.append(replace(pair, kind=session.kind if own else ANOTHERS))
    return found


def main() -> None:
    """Write the pairs beside both shipped models."""
    mix = {kind: odds for kind, odds in SESSION_MIX.items() if kind != "retry"}
    pairs = proposals(sample_pairs(TUNING_SEED, TUNING_SESSIONS, mix), Embedder().embed_now)
    for model in ("scenes-unet", "scenes-dit"):
        write_pairs(pairs, Path("models") / model / SHIPPED)


if __name__ == "__main__":
    main()
