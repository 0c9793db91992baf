"""Which levels of a neighbour's run a request may resume from, worked out for all pairs of texts at once.

A set of levels is a number with one bit per level, the shallowest first. The policies of `policies/matching` decide
the same thing one request at a time against a live store; a test holds the two to each other.

The divergence gate needs the model, so it is not simulated: every proposed resume counts as accepted, and savings
under a gated table are upper bounds in this respect, for every eviction policy alike.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loadtest.simulator.neighbours import Neighbours
from policies.matching import PAPER_ROWS, TableError, ThresholdRow, ThresholdTable
from policies.matching.ranking import can_judge
from policies.matching.table import bounds_at
from policies.matching.veto import KINDS, Reading, conflicts, read

Masks = NDArray[np.uint8]


class MatchingError(Exception):
    """A matching table cannot be used; one line."""


@dataclass(frozen=True)
class Matching:
    """A table of similarity thresholds.

    Attributes:
        name: what reports call it.
        rows: bounds per level; the divergence bound is not looked at.
        strict: whether a similarity equal to a bound is too small, as in the paper.
        judged_at: level whose state must be there too before another text's run may be resumed, or None.
        veto: the kinds of words in which texts that contradict each other never match; empty = no veto.
    """

    name: str
    rows: tuple[ThresholdRow, ...]
    strict: bool = False
    judged_at: float | None = None
    veto: frozenset[str] = frozenset()

    @property
    def floor(self) -> float:
        """Smallest similarity with which anything may match."""
        return min(row.min_similarity for row in self.rows)

    def bounds(self, skips: Sequence[float]) -> list[float]:
        """Smallest similarity for each level; infinity where the table leaves it out."""
        found = [bounds_at(self.rows, skip) for skip in skips]
        return [math.inf if row is None else row.min_similarity for row in found]

    def judge_bit(self, skips: Sequence[float]) -> int:
        """The level that must be there for other texts; 0 = none is needed."""
        if self.judged_at is None:
            return 0
        fit = [level for level, skip in enumerate(skips) if can_judge(skip, self.judged_at)]
        if not fit:
            raise MatchingError(f"{self.name} judges at {self.judged_at:g} of the run, but no state is kept near it")
        return 1 << min(fit, key=lambda level: abs(skips[level] - (self.judged_at or 0.0)))

    def masks(self, near: Neighbours, skips: Sequence[float], prompts: Sequence[str] | None) -> Masks:
        """For each pair the levels that may be resumed from; the text itself: those the table has at all."""
        masks = np.zeros(len(near.similarities), np.uint8)
        for level, bound in enumerate(self.bounds(skips)):
            # Float32 similarities at five decimals: compare in the middle between two of them.
            edge = bound + (5e-6 if self.strict else -5e-6)
            masks[near.similarities > edge] |= np.uint8(1 << level)
        if self.judged_at is not None:
            other = np.ones(len(masks), bool)
            other[near.starts[:-1]] = False
            masks[other] &= np.uint8(0xFF & -self.judge_bit(skips))  # nothing shallower than where it was judged
        if self.veto and prompts is not None:
            masks[_vetoed(near, prompts, self.veto)] = 0
        return masks


PAPER = Matching("paper", PAPER_ROWS, strict=True)
"""Nirvana's table: K = 5..25 of 50 by CLIP similarity. Its cut points mean nothing much on another embedder."""


def fixed(threshold: float, skips: Sequence[float]) -> Matching:
    """Every level from one similarity on."""
    if not 0.0 < threshold <= 1.0:
        raise MatchingError(f"a fixed similarity threshold lies in (0, 1], got {threshold:g}")
    return Matching(f"fixed-{threshold:g}", tuple(ThresholdRow(skip, threshold, math.inf) for skip in skips))


def load_matching(path: Path) -> Matching:
    """Read a threshold table as `headstart calibrate` writes it.

    Raises:
        MatchingError: it cannot be read, or is none.
    """
    try:
        table = ThresholdTable.load(path)
    except OSError as error:
        raise MatchingError(f"{path} cannot be read: {error.strerror}") from None
    except TableError as error:
        raise MatchingError(str(error)) from None
    return Matching("calibrated", table.rows, judged_at=table.judged_at, veto=KINDS)


def _vetoed(near: Neighbours, prompts: Sequence[str], kinds: frozenset[str]) -> NDArray[np.bool_]:
    """Pairs that the lexical veto parts; texts that read the same share a number, so each comparison is made once."""
    numbered: dict[Reading, int] = {}
    of = np.array([numbered.setdefault(read(prompt, kinds), len(numbered)) for prompt in prompts], np.int64)
    rows = np.repeat(np.arange(len(prompts)), np.diff(near.starts))
    pairs, where = np.unique(np.stack([of[rows], of[near.texts]], axis=1), axis=0, return_inverse=True)
    readings = list(numbered)
    parted = [bool(conflicts(readings[one], readings[other], kinds)) for one, other in pairs.tolist()]
    return np.array(parted, bool)[where.reshape(-1)]
