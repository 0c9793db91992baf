"""A cache to simulate: what is stored, when, and what it may be resumed for. Named baselines are such set-ups."""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from loadtest.simulator.matching import PAPER, Matching

Admission = Literal["miss-only", "partial", "no-repeats", "everything"]
ADMISSIONS: tuple[str, ...] = get_args(Admission)


class SetupError(Exception):
    """A set-up makes no sense; one line."""


@dataclass(frozen=True)
class States:
    """What a run leaves behind.

    Attributes:
        skips: the levels, as shares of the steps, shallowest first; at most 8.
        nbytes: size of a stored object.
        form: "trajectory" stores one object per level, "final" one that is re-noised to any level.
    """

    skips: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5)
    nbytes: int = 32 * 1024
    form: Literal["trajectory", "final"] = "trajectory"

    def __post_init__(self) -> None:
        if not 1 <= len(self.skips) <= 8 or list(self.skips) != sorted(set(self.skips)):
            raise SetupError("states: 1 to 8 levels, each deeper than the one before")
        if not 0.0 < self.skips[0] <= self.skips[-1] < 1.0:
            raise SetupError("states: levels are shares of the steps, in (0, 1)")
        if self.nbytes < 1:
            raise SetupError(f"states: a size in bytes, at least 1, not {self.nbytes}")


@dataclass(frozen=True)
class Setup:
    """Everything that is fixed while policies and sizes are compared.

    Attributes:
        name: what reports call it.
        matching: the similarity table.
        states: what a run leaves behind.
        candidates: nearest texts with anything stored that are looked at.
        admission: what is stored. "miss-only": the states of full runs, as in Nirvana. "partial": also the later
            states that a resumed run computes itself, unless its chain of resumes is too long. "no-repeats": the
            same, but nothing of a run that resumed from its own text. "everything": a whole object of every run, as
            in MoDM (form "final" only: a resumed run has no early states of its own).
        max_depth: longest chain of resumes whose states are stored.
        honour_seeds: whether a request with a seed is either answered with the stored picture of the same text and
            seed or run in full, as the service does by default; else seeds are ignored.
    """

    name: str
    matching: Matching = PAPER
    states: States = States()
    candidates: int = 8
    admission: Admission = "partial"
    max_depth: int = 3
    honour_seeds: bool = False

    def __post_init__(self) -> None:
        if self.candidates < 1:
            raise SetupError(f"candidates: at least 1, not {self.candidates}")
        if self.admission not in ADMISSIONS:
            raise SetupError(f"unknown admission rule {self.admission!r}; known: {', '.join(ADMISSIONS)}")
        if self.admission == "everything" and self.states.form != "final":
            raise SetupError("admission everything needs states of the form final")


def nirvana(matching: Matching = PAPER, states: States | None = None) -> Setup:
    """Nirvana as published, but for the embedder: the nearest text only, its deepest allowed state, full runs stored.

    Goes with the eviction policy `lcbfu`, which starts at 0 uses and lets every state live or die by itself; a
    neighbour none of whose allowed states is left is a miss. What a widely used public re-implementation of it gets
    wrong is not repeated: states come from the run itself, cosine is compared with cosine thresholds, eviction takes
    one state at a time, ids are never reused.
    """
    return Setup("nirvana", matching, states or States(), candidates=1, admission="miss-only")


IMAGE_IN_STATES = 2.8
"""MoDM's stored picture against one noise state: 1.4 MB beside five states of 2.5 MB together (its SD 3.5 figures).

A picture of a text that is stored already replaces the older one, which leaves MoDM more room than it has."""


def modm(matching: Matching = PAPER, states: States | None = None) -> Setup:
    """MoDM's cache: the final picture of every request, first in first out (policy `fifo`), re-noised to any level.

    Two substitutions. It matches by CLIP similarity of text and *picture*; a log has no pictures, so its tiers stand
    at the cut points of the text table in use, and they are that table's levels, not its own (up to 60 % of the
    steps). And it finishes hits with a smaller model: that saving is not counted, only the steps skipped.
    """
    base = states or States()
    final = replace(base, form="final", nbytes=round(IMAGE_IN_STATES * base.nbytes))
    # Nothing judges a re-noised picture, and no other state has to be there.
    bare = replace(matching, judged_at=None, veto=frozenset())
    return Setup("modm", bare, final, candidates=1, admission="everything", max_depth=2**30)


def headstart(matching: Matching = PAPER, states: States | None = None) -> Setup:
    """What the service does: several candidates, and resumed runs leave their later states."""
    return Setup("headstart", matching, states or States())
