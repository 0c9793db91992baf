"""What the lexical veto reaches and what it costs, on real prompts: text only, no model but the embedder.

PartiPrompts: edits that change the picture (reach), edits that do not (false alarms), and the prompts themselves,
each beside the nearest earlier one. DiffusionDB, in order: near-duplicates such as sessions make. A proposal is a
pair of different texts of cosine 0.75 or more, the earlier one the nearest.
"""

import csv
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.facts import Floats, mean_interval
from benchmarks.veto_edits import EDITS, REWORDINGS, Edit
from benchmarks.workloads import EMBEDDINGS, data_folder, diffusiondb
from loadtest.simulator.embeddings import EmbeddingCache
from policies.matching.veto import KINDS, veto_reasons
from service.embedder import Embedder, Vector

PARTI = "prompts/PartiPrompts.tsv"
DIFFUSIONDB = "prompts/diffusiondb_first_3000.csv"
FLOOR = 0.75
FLOORS = (0.75, 0.9, 0.95)
_QUICK = 300

Vectors = Mapping[str, Vector]
TextPair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class PartiPrompt:
    """A prompt of PartiPrompts, its category and its challenge."""

    text: str
    category: str
    challenge: str


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure reach, false alarms and cost; `skipped` says why where the data is not there."""
    folder = data_folder()
    missing = _missing(folder)
    if folder is None or missing:
        return {"headline": {"skipped": missing}, "skipped": missing}
    limit = _QUICK if quick else None
    parti = read_parti(folder / PARTI)[:limit]
    log = list(dict.fromkeys(row.prompt for row in diffusiondb(folder, limit)))
    texts = list(dict.fromkeys(prompt.text for prompt in parti))
    edited, reworded = edits_of(texts, EDITS), edits_of(texts, REWORDINGS)
    every = [*texts, *log, *(text for made in (edited, reworded) for pairs in made.values() for _, text in pairs)]
    vectors = _embedded(list(dict.fromkeys(every)), quiet=quiet)
    proposals = proposals_of(log, vectors)
    report = {
        "edits": [row(name, pairs, vectors) for name, pairs in edited.items() if pairs],
        "rewordings": [row(name, pairs, vectors) for name, pairs in reworded.items() if pairs],
        "diffusiondb": by_similarity(proposals, vectors),
        "parti": by_challenge(parti, proposals_of(texts, vectors), vectors),
        "microseconds": microseconds(proposals),
        "floor": FLOOR,
        "prompts": {"parti": len(texts), "diffusiondb": len(log)},
    }
    return {"headline": _headline(report, edited, reworded, vectors), **report}


def read_parti(path: Path) -> list[PartiPrompt]:
    """Read PartiPrompts.tsv."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [PartiPrompt(row["Prompt"].strip(), row["Category"], row["Challenge"]) for row in rows]


def edits_of(texts: Sequence[str], edits: Mapping[str, Edit]) -> dict[str, list[TextPair]]:
    """By name of the edit: (prompt, edited prompt), where it applies."""
    return {
        name: [(text, made) for text in texts if (made := edit(text)) is not None and made != text]
        for name, edit in edits.items()
    }


def proposals_of(texts: Sequence[str], vectors: Vectors) -> list[TextPair]:
    """(prompt, the nearest earlier one), for different texts in order, where that is near enough to be proposed."""
    rows = np.stack([vectors[text] for text in texts])
    found = []
    for place in range(1, len(texts)):
        cosines = rows[:place] @ rows[place]
        nearest = int(cosines.argmax())
        if cosines[nearest] >= FLOOR:
            found.append((texts[place], texts[nearest]))
    return found


def row(name: str, pairs: Sequence[TextPair], vectors: Vectors) -> dict[str, Any]:
    """Cosines of pairs, shares above each floor, and shares vetoed: by any kind, by default, by each kind alone."""
    cosines = _cosines(pairs, vectors)
    reasons = [frozenset(veto_reasons(*pair)) for pair in pairs]
    return {
        "name": name,
        "pairs": len(pairs),
        "cosine": mean_interval(cosines),
        "above": {str(floor): float((cosines >= floor).mean()) for floor in FLOORS},
        "vetoed": mean_interval([float(bool(found)) for found in reasons]),
        "kinds": {kind: float(np.mean([kind in found for found in reasons])) for kind in sorted(KINDS)},
    }


def by_similarity(pairs: Sequence[TextPair], vectors: Vectors) -> list[dict[str, Any]]:
    """Rows for all proposals, and for those between one floor and the next."""
    cosines = _cosines(pairs, vectors)
    rows = [row("all", pairs, vectors)] if pairs else []
    for low, high in zip(FLOORS, (*FLOORS[1:], 2.0), strict=True):
        inside = [pair for pair, cosine in zip(pairs, cosines, strict=True) if low <= cosine < high]
        if inside:
            rows.append(row(f"{low:g} to {min(high, 1.0):g}", inside, vectors))
    return rows


def by_challenge(prompts: Sequence[PartiPrompt], pairs: Sequence[TextPair], vectors: Vectors) -> list[dict[str, Any]]:
    """Rows for the proposals of each challenge, then of each category."""
    rows = []
    for names in ({one.text: one.challenge for one in prompts}, {one.text: one.category for one in prompts}):
        for name in sorted(set(names.values())):
            inside = [pair for pair in pairs if names[pair[0]] == name]
            if inside:
                rows.append(row(name, inside, vectors))
    return rows


def microseconds(pairs: Sequence[TextPair]) -> dict[str, float]:
    """Time a pair takes with all kinds, both texts read afresh: mean and 99th percentile."""
    taken = []
    for one, other in pairs:
        started = time.thread_time()
        veto_reasons(one, other)
        taken.append(1e6 * (time.thread_time() - started))
    return {"mean": float(np.mean(taken)), "p99": float(np.percentile(taken, 99))}


def _headline(
    report: dict[str, Any],
    edited: Mapping[str, Sequence[TextPair]],
    reworded: Mapping[str, Sequence[TextPair]],
    vectors: Vectors,
) -> dict[str, Any]:
    meant, harmless = (row("", list(_flat(made)), vectors) for made in (edited, reworded))
    return {
        "edits": meant["pairs"],
        "caught": meant["vetoed"]["value"],
        "edits_above_.9": meant["above"]["0.9"],
        "rewordings": harmless["pairs"],
        "rewordings_vetoed": harmless["vetoed"]["value"],
        "log_proposals_vetoed": report["diffusiondb"][0]["vetoed"]["value"],
        "microseconds_a_pair": report["microseconds"]["mean"],
    }


def _flat(made: Mapping[str, Sequence[TextPair]]) -> Iterator[TextPair]:
    for pairs in made.values():
        yield from pairs


def _cosines(pairs: Sequence[TextPair], vectors: Vectors) -> Floats:
    return np.array([float(vectors[one] @ vectors[other]) for one, other in pairs], dtype=float)


def _embedded(texts: Sequence[str], *, quiet: bool) -> Vectors:
    embedder = Embedder()
    rows = EmbeddingCache(EMBEDDINGS, embedder.digest).vectors(texts, embedder.embed_many, quiet=quiet)
    return dict(zip(texts, rows, strict=True))


def _missing(folder: Path | None) -> str:
    """Why nothing can be measured; "" = everything is there."""
    if folder is None:
        return "HEADSTART_DATA is not set: no real prompts to measure on"
    absent = [name for name in (PARTI, DIFFUSIONDB) if not (folder / name).is_file()]
    return f"HEADSTART_DATA lacks {', '.join(absent)}" if absent else ""
