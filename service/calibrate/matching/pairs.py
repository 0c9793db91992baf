"""Pairs of prompts to calibrate on: an earlier prompt, and a later one that might be served from its states."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.calibrate.driver import CalibrationError
from service.calibrate.files import read_prompts

SHIPPED = "matching_pairs.jsonl"
"""Beside a model: the pairs its table was fitted on."""
_LEAST_SIMILAR = 0.5
_NEIGHBOURS = 8
_MOST_PROMPTS = 20_000
_BANDS = 10


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


def neighbouring_pairs(
    prompts: Sequence[str], vectors: NDArray[np.float32], count: int, seed: int
) -> tuple[MatchPair, ...]:
    """Pair prompts of a log with earlier ones, as the cache would: with one of their nearest.

    Pairs are drawn evenly over bands of similarity, from those that a cache may consider at all: most neighbours of
    a log are far or the same, and where the bound lies in between is what is asked.

    Args:
        prompts: in the order of the log; repeats are paired once.
        vectors: float32 [len(prompts), D], of unit length.
        count: pairs wanted; fewer come back if the log has no more.
        seed: of the draw.
    """
    prompts, vectors = prompts[:_MOST_PROMPTS], vectors[:_MOST_PROMPTS]
    found: dict[tuple[str, str], float] = {}
    for later in range(1, len(prompts)):
        similarity = vectors[:later] @ vectors[later]
        for earlier in np.argsort(-similarity, kind="stable")[:_NEIGHBOURS]:
            if similarity[earlier] >= _LEAST_SIMILAR and prompts[earlier] != prompts[later]:
                found.setdefault((prompts[earlier], prompts[later]), float(similarity[earlier]))
    pairs = sorted(found, key=lambda pair: found[pair])
    bands = [list(band) for band in np.array_split(np.arange(len(pairs)), _BANDS) if len(band)]
    rng = np.random.default_rng(seed)
    for band in bands:
        rng.shuffle(band)
    # One of each band in turn: any first so many are as even as all of them.
    drawn = [band[turn] for turn in range(max(map(len, bands), default=0)) for band in bands if turn < len(band)]
    return tuple(MatchPair(*pairs[number]) for number in drawn[:count])
