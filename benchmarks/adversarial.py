"""Pairs of prompts for the shipped scenes models that a plain similarity threshold gets wrong, and a control group.

Each adversarial pair changes one thing that a right picture must show, in the wordings (of many) whose embeddings lie
closest together; a hit that keeps the old picture is wrong. A control pair is a rewording that pins down the same
attributes; a hit is right. `run` reports what the cosine says of each kind, and what the lexical veto catches.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.facts import mean_interval
from policies.matching.veto import KINDS, veto_reasons
from service.embedder import Embedder, Vector
from training.scenes import Caption, Scene, caption, sample_scene
from training.scenes.spec import COLOURS, SHAPES, Thing, is_novel

PER_KIND, CONTROLS, WORDINGS = 32, 120, 12
QUICK = {"per_kind": 6, "wordings": 3}
FLOORS = (0.75, 0.9, 0.95)
CONTROL = "wording"
_ENOUGH_WORDINGS = 4000
_OPPOSITE = {"left": "right", "right": "left", "top": "bottom", "bottom": "top"}
_TEXTURES = ("striped", "dotted", "checkered")

Embed = Callable[[Sequence[str]], Vector]


@dataclass(frozen=True, slots=True)
class AdversarialPair:
    """A source prompt, the prompt that follows it, and how they differ (one of `ADVERSARIAL`, or `CONTROL`).

    Fields as in `training.pairs.Pair`.

    Attributes:
        similarity: cosine of the two texts' embeddings.
    """

    source: Caption
    target: Caption
    kind: str
    similarity: float


@dataclass(frozen=True)
class _Change:
    """How a kind of pair is made.

    Attributes:
        things: how many the source scene has.
        fits: which scenes can be changed so.
        apply: the changed scene.
        said: attributes of which both captions must say those that they have.
        words: what source and target must say beside that.
    """

    things: int
    fits: Callable[[Scene], bool]
    apply: Callable[[Scene, np.random.Generator], Scene]
    said: tuple[str, ...]
    words: tuple[str, str] = ("", "")


def _other(values: tuple[str, ...], old: str, rng: np.random.Generator) -> str:
    rest = [value for value in values if value != old]
    return rest[int(rng.integers(len(rest)))]


def _first(scene: Scene, **changes: str) -> Scene:
    return replace(scene, things=(replace(scene.things[0], **changes), *scene.things[1:]))


def _colour_swap(scene: Scene, _: np.random.Generator) -> Scene:
    one, two = scene.things
    return replace(scene, things=(replace(one, colour=two.colour), replace(two, colour=one.colour)))


def _order_swap(scene: Scene, _: np.random.Generator) -> Scene:
    return replace(scene, things=scene.things[::-1])


def _second_thing(scene: Scene, rng: np.random.Generator) -> Scene:
    one = scene.things[0]
    added = Thing(_other(SHAPES, one.shape, rng), _other(COLOURS, one.colour, rng), one.size, "plain")
    return replace(scene, things=(one, added), layout="left of")


def _parted(scene: Scene) -> bool:
    """Whether the two things can be told apart by shape and by colour."""
    one, two = scene.things
    return one.shape != two.shape and one.colour != two.colour


def _always(_: Scene) -> bool:
    return True


_COLOURS_SAID = ("a.shape", "a.colour", "b.shape", "b.colour")
_CHANGES = {
    "colour swap": _Change(2, _parted, _colour_swap, _COLOURS_SAID),
    "colour": _Change(
        1,
        _always,
        lambda scene, rng: _first(scene, colour=_other(COLOURS, scene.things[0].colour, rng)),
        ("a.colour",),
    ),
    "left-right swap": _Change(
        2, lambda scene: _parted(scene) and scene.layout == "left of", _order_swap, _COLOURS_SAID
    ),
    "above-below swap": _Change(
        2, lambda scene: _parted(scene) and scene.layout == "above", _order_swap, _COLOURS_SAID
    ),
    "place": _Change(
        1,
        lambda scene: scene.layout in _OPPOSITE,
        lambda scene, _: replace(scene, layout=_OPPOSITE[scene.layout]),
        ("layout",),
    ),
    "count": _Change(1, _always, _second_thing, ("count",)),
    "negation": _Change(
        1,
        lambda scene: scene.things[0].texture == "plain",
        lambda scene, _: _first(scene, texture="striped"),
        ("a.texture",),
        ("without a pattern", "with stripes"),
    ),
    "texture": _Change(
        1,
        lambda scene: scene.things[0].texture in _TEXTURES,
        lambda scene, rng: _first(scene, texture=_other(_TEXTURES, scene.things[0].texture, rng)),
        ("a.texture",),
    ),
    "shape": _Change(
        1, _always, lambda scene, rng: _first(scene, shape=_other(SHAPES, scene.things[0].shape, rng)), ("a.shape",)
    ),
    "size": _Change(
        1,
        lambda scene: scene.things[0].size != "medium",
        lambda scene, _: _first(scene, size="large" if scene.things[0].size == "small" else "small"),
        ("a.size",),
    ),
}
ADVERSARIAL = tuple(_CHANGES)
"""What an adversarial pair changes."""


def adversarial_pairs(
    embed: Embed, seed: int = 0, *, per_kind: int = PER_KIND, wordings: int = WORDINGS
) -> list[AdversarialPair]:
    """Return `per_kind` pairs of each kind of `ADVERSARIAL`, over held-out scenes, the same ones for the same seed.

    Args:
        embed: texts to unit vectors float32 [texts, dimensions], such as `Embedder.embed_many`.
        seed: decides scenes and wordings.
        per_kind: pairs of each kind.
        wordings: of how many pairs of wordings the closest is taken.
    """
    drafts, kinds = [], []
    for place, (kind, change) in enumerate(_CHANGES.items()):
        rng = np.random.default_rng((seed, place))
        for _ in range(per_kind):
            drafts.append(_drafts(change, rng, wordings))
            kinds.append(kind)
    return [_closest(options, kind) for options, kind in zip(_measured(drafts, embed), kinds, strict=True)]


def rewordings(embed: Embed, seed: int = 0, *, count: int = CONTROLS) -> list[AdversarialPair]:
    """Return `count` control pairs: two random wordings of a held-out scene that say the same about it."""
    rng = np.random.default_rng((seed, len(_CHANGES)))
    drafts = [[_reworded(sample_scene(rng, split="heldout"), rng)] for _ in range(count)]
    return [_closest(options, CONTROL) for options in _measured(drafts, embed)]


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Report cosines, what a threshold lets through and what the veto catches, by kind of pair."""
    embedder = Embedder()
    pairs = adversarial_pairs(embedder.embed_many, **QUICK if quick else {})
    control = rewordings(embedder.embed_many, count=40 if quick else CONTROLS)
    rows = [_row(kind, [pair for pair in pairs if pair.kind == kind]) for kind in ADVERSARIAL]
    everything, harmless = _row("all adversarial", pairs), _row(CONTROL, control)
    if not quiet:
        print(f"{len(pairs)} pairs, {len(control)} rewordings")
    return {
        "headline": {
            "pairs": len(pairs),
            "rewordings": len(control),
            "adversarial_above_.9": everything["above"]["0.9"],
            "rewordings_above_.9": harmless["above"]["0.9"],
            "caught": everything["vetoed"],
            "rewordings_vetoed": harmless["vetoed"],
        },
        "rows": [*rows, everything, harmless],
        "floors": list(FLOORS),
    }


def _row(kind: str, pairs: Sequence[AdversarialPair]) -> dict[str, Any]:
    """Cosines, shares above each floor and shares vetoed, altogether and by each kind of words alone."""
    cosines = np.array([pair.similarity for pair in pairs])
    reasons = [veto_reasons(pair.source.text, pair.target.text) for pair in pairs]
    return {
        "kind": kind,
        "pairs": len(pairs),
        "cosine": mean_interval(cosines),
        "lowest": float(cosines.min()),
        "above": {str(floor): float((cosines >= floor).mean()) for floor in FLOORS},
        "vetoed": float(np.mean([bool(found) for found in reasons])),
        "reasons": {name: float(np.mean([name in found for found in reasons])) for name in sorted(KINDS)},
    }


def _drafts(change: _Change, rng: np.random.Generator, count: int) -> list[tuple[Caption, Caption]]:
    """Wordings of a random scene and of what `change` makes of it."""
    while True:
        scene = sample_scene(rng, split="heldout")
        if len(scene.things) != change.things or not change.fits(scene):
            continue
        target = change.apply(scene, rng)
        if not is_novel(target):
            return list(_wordings(scene, target, change, rng, count))


def _wordings(
    scene: Scene, target: Scene, change: _Change, rng: np.random.Generator, count: int
) -> Iterator[tuple[Caption, Caption]]:
    """Captions of both scenes drawn with the same luck: where it can be, they differ in the change alone."""
    made = 0
    for _ in range(_ENOUGH_WORDINGS):
        luck = int(rng.integers(2**32))
        old, new = (caption(one, np.random.default_rng(luck)) for one in (scene, target))
        if _says(old, change, change.words[0]) and _says(new, change, change.words[1]) and _comparable(old, new):
            yield old, new
            made += 1
        if made == count:
            return


def _says(text: Caption, change: _Change, words: str) -> bool:
    wanted = set(change.said) & set(text.scene.attributes())
    return wanted <= text.mentioned and words in text.text


def _comparable(old: Caption, new: Caption) -> bool:
    """Whether the target says all of what the source says: nothing but the change may tell the two apart."""
    attributes = new.scene.attributes().keys() & old.scene.attributes().keys()
    if len(new.scene.things) != len(old.scene.things):
        attributes -= {"layout"}  # of two things it is always said
    return old.text != new.text and (new.mentioned & attributes) == (old.mentioned & attributes)


def _reworded(scene: Scene, rng: np.random.Generator) -> tuple[Caption, Caption]:
    while True:
        old = caption(scene, rng)
        for _ in range(200):
            new = caption(scene, rng)
            if new.mentioned == old.mentioned and _bare(new.text) != _bare(old.text):
                return old, new


def _bare(text: str) -> str:
    return text.lower().rstrip(".")


def _measured(
    drafts: Sequence[Sequence[tuple[Caption, Caption]]], embed: Embed
) -> Iterator[list[tuple[Caption, Caption, float]]]:
    """The drafts with their cosines; every text is embedded once."""
    texts = dict.fromkeys(one.text for options in drafts for pair in options for one in pair)
    vectors = dict(zip(texts, embed(list(texts)), strict=True))
    for options in drafts:
        yield [(old, new, float(vectors[old.text] @ vectors[new.text])) for old, new in options]


def _closest(options: Sequence[tuple[Caption, Caption, float]], kind: str) -> AdversarialPair:
    old, new, similarity = max(options, key=lambda option: option[2])
    return AdversarialPair(old, new, kind, similarity)
