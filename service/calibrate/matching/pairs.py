"""Pairs of prompts to calibrate on: an earlier prompt, and a later one that might be served from its states."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from policies.matching.veto import lexical_veto
from service.calibrate.driver import CalibrationError
from service.calibrate.files import read_prompts

SHIPPED = "matching_pairs.jsonl"
"""Beside a model: the pairs its table was fitted on."""
_LEAST_SIMILAR = 0.5
_NEIGHBOURS = 8
_MOST_PROMPTS = 20_000


@dataclass(frozen=True, slots=True)
class MatchPair:
    """Two prompts, and how they differ as far as somebody knows ("" = nobody says)."""

    source: str
    target: str
    kind: str = ""

    @property
    def repeat(self) -> bool:
        """Whether the texts are the same: nothing to match by similarity."""
        return self.source == self.target


def read_pairs(path: Path | None, model: str) -> tuple[MatchPair, ...] | tuple[str, ...]:
    """Return the pairs of a `.jsonl` file (`source`, `target`, `kind`), or the prompts of a text file, one a line.

    Without a file, the pairs that ship with the model.

    Raises:
        CalibrationError: there is none, or it cannot be read; the message says which line.
    """
    if path is None:
        path = Path(model) / SHIPPED
        if not path.is_file():
            raise CalibrationError("this model ships no pairs to calibrate on: give your prompts with --prompts")
    if path.suffix != ".jsonl":
        return read_prompts(path, model)
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise CalibrationError(f"cannot read pairs from {path}: {why}") from error
    pairs = tuple(_pair(line, number, path) for number, line in enumerate(lines, start=1) if line.strip())
    if not pairs:
        raise CalibrationError(f"there is no pair in {path}")
    return pairs


def _pair(line: str, number: int, path: Path) -> MatchPair:
    try:
        row = json.loads(line)
        source, target, kind = row["source"], row["target"], row.get("kind", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CalibrationError(f'{path.name}, line {number}: not {{"source": …, "target": …}}') from None
    if not all(isinstance(text, str) for text in (source, target, kind)) or not (source.strip() and target.strip()):
        raise CalibrationError(f"{path.name}, line {number}: source and target must be texts")
    return MatchPair(source, target, kind)


def write_pairs(pairs: Sequence[MatchPair], path: Path) -> None:
    """Write pairs as `read_pairs` reads them."""
    rows = ({"source": pair.source, "target": pair.target, "kind": pair.kind} for pair in pairs)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")


def proposable(pairs: Iterable[MatchPair], count: int) -> tuple[MatchPair, ...]:
    """Return the first `count` pairs that the lexical veto lets pass: others never come before the gate."""
    return tuple(islice((pair for pair in pairs if not lexical_veto(pair.source, pair.target)), count))


def proposed(target: str, sources: Sequence[str], similarity: NDArray[np.float32]) -> MatchPair | None:
    """Return the pair that a cache of `sources` would bring before the gate for `target`: with the most similar one.

    None where nothing similar passes the lexical veto, or where the very same text is remembered, which needs no
    judgement. Other pairs, however alike, tell nothing of the bad hits of a cache that never asks for them.

    Args:
        target: the new prompt.
        sources: the remembered ones.
        similarity: of each to `target`, float32 [len(sources)].
    """
    near = [int(row) for row in np.argsort(-similarity, kind="stable")[:_NEIGHBOURS]]
    pairs = [MatchPair(sources[row], target) for row in near if similarity[row] >= _LEAST_SIMILAR]
    return None if any(pair.repeat for pair in pairs) else next(iter(proposable(pairs, 1)), None)


def neighbouring_pairs(
    prompts: Sequence[str], vectors: NDArray[np.float32], count: int, seed: int
) -> tuple[MatchPair, ...]:
    """Pair prompts of a log with what a cache of all earlier ones would propose for them.

    Args:
        prompts: in the order of the log.
        vectors: float32 [len(prompts), D], of unit length.
        count: pairs wanted, drawn evenly over the log; fewer come back if it has no more.
        seed: of the draw.
    """
    prompts, vectors = prompts[:_MOST_PROMPTS], vectors[:_MOST_PROMPTS]
    later = np.random.default_rng(seed).permutation(np.arange(1, len(prompts)))
    found = (proposed(prompts[row], prompts[:row], vectors[:row] @ vectors[row]) for row in later)
    return tuple(islice((pair for pair in found if pair is not None), count))
