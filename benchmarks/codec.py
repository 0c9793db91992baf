"""What do cheaper states cost in pictures? int8 beside half precision, clean latents beside the states themselves.

On both shipped models and pairs of prompts not used for tuning, that the shipped table accepts: the same text with
another seed, rewordings, edits. Every pair is served from each way of keeping its source (`codec_forms`), exactly as
the service would: judged where the table judges, entered deeper where its bounds allow, in full if refused. The
judge's scores are compared pair by pair with those of the states in half precision. A form is adequate when the lower
end of that ratio, over thirty pairs or more, is at least 0.99 and it loses at most a twentieth of the hits;
`python -m benchmarks.codec_profile` writes the most compact adequate form into the models' tables.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.codec_forms import BASELINE, WAYS, Costs, Way, keep, point_of, sizes
from benchmarks.codec_sheet import Row, draw_sheet
from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.features.pictures import psnr
from benchmarks.resume_trials import MODEL, prompt_similarity
from policies.matching.table import ThresholdRow, ThresholdTable
from service.embedder import Embedder
from service.engine.base import JobResult, JobSpec, ResumePoint
from service.settings import Settings
from training.lab import Lab, RunSettings, jobs, resumed
from training.loop import DIT_FOLDER
from training.pairs import Pair, sample_pairs
from training.scenes import EDIT_KINDS

MODELS: dict[str, Path] = {"unet": MODEL, "dit": DIT_FOLDER}
SESSION_SEED = 2006
MIX = {"retry": 0.25, "wording": 0.4} | {
    kind: 0.35 / (len(EDIT_KINDS) - 1) for kind in EDIT_KINDS if kind != "wording"
}
CHUNK = 24
MOST_CHUNKS = 12
QUALITY, HITS = 0.99, 0.95
FEWEST = 30  # fewer pairs are no evidence
INFINITE = float("inf")
SHEET_PAIRS = 6


@dataclass(frozen=True, slots=True)
class Case:
    """A pair of prompts, the run of the first, and the job of the second."""

    number: int
    pair: Pair
    source: JobResult
    spec: JobSpec


@dataclass
class Served:
    """One way of keeping runs: a value per pair, or per level and pair."""

    costs: Costs = field(default_factory=Costs)
    results: dict[float, list[JobResult]] = field(default_factory=dict)
    scores: dict[float, Floats] = field(default_factory=dict)

    def hits(self, level: float) -> NDArray[np.bool_]:
        """Which pairs were resumed."""
        return np.array([result.resumed is not None for result in self.results[level]])

    @property
    def mean_scores(self) -> Floats:
        """Per pair, over the levels."""
        return np.asarray(np.mean(list(self.scores.values()), axis=0), dtype=float)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer pairs and one level."""
    models = {name: measure(folder, 8 if quick else 48, quick=quick, quiet=quiet) for name, folder in MODELS.items()}
    known = sizes()
    return {"headline": _headline(models, known), "models": models, "sizes": known}


def measure(
    folder: Path, wanted: int, *, quick: bool, quiet: bool, sheet: Path | None = None, ways: Sequence[Way] = WAYS
) -> dict[str, Any]:
    """Measure one model.

    Args:
        folder: of the model.
        wanted: pairs to find.
        quick: one level instead of all.
        quiet: no progress bars.
        sheet: where to write a contact sheet; None = nowhere.
        ways: what to compare, `BASELINE` first.
    """
    table = ThresholdTable.load(folder / "matching.json")
    with Lab(str(folder), dtype="float32", quiet=quiet) as lab:
        levels = shipped_levels(table, quick=quick)
        cases, looked_at = find_cases(lab, table, levels[0], wanted)
        served = {way: serve(lab, table, cases, way, levels) for way in ways}
        fulls = lab.run([case.spec for case in cases], "in full")
        full = np.asarray(lab.judge(fulls, [case.pair.target for case in cases]).score, dtype=float)
        if sheet is not None:
            draw_sheet(sheet, _rows(cases, served, fulls, levels[-1]))
        return report_of(lab.info.weights_digest, cases, served, full) | {"looked_at": looked_at}


def shipped_levels(table: ThresholdTable, *, quick: bool) -> list[ThresholdRow]:
    """The table's rows beyond the one it judges at; the first of them for a quick run."""
    deeper = [row for row in table.rows if table.judged_at is None or row.skip > table.judged_at + 1e-6]
    return deeper[:1] if quick else deeper


def find_cases(lab: Lab, table: ThresholdTable, row: ThresholdRow, wanted: int) -> tuple[list[Case], int]:
    """Run sessions until `wanted` pairs are resumed at `row` from states in half precision; also how many were tried.

    Raises:
        RuntimeError: no pair is.
    """
    embedder, cases, looked_at = Embedder(), list[Case](), 0
    while len(cases) < wanted and looked_at < CHUNK * MOST_CHUNKS:
        pairs = sample_pairs(SESSION_SEED + looked_at, CHUNK, MIX)
        close = prompt_similarity(embedder, pairs) >= row.min_similarity
        tried = _prepare(lab, [pair for pair, near in zip(pairs, close, strict=True) if near], looked_at)
        served = serve(lab, table, tried, BASELINE, [row])
        cases += [case for case, hit in zip(tried, served.hits(row.skip), strict=True) if hit]
        looked_at += CHUNK
    if not cases:
        raise RuntimeError("no pair is inside the shipped table")
    return cases[:wanted], looked_at


def _prepare(lab: Lab, pairs: Sequence[Pair], first: int) -> list[Case]:
    info = lab.info
    plain = RunSettings(info.default_steps, info.solvers[0], info.default_guidance)
    plain = replace(plain, solver="dpmpp_2m" if "dpmpp_2m" in info.solvers else plain.solver)
    capturing = replace(plain, capture=Settings.model_fields["capture"].default)
    seeds = [first + number for number in range(len(pairs))]
    sources = lab.run(jobs([p.source for p in pairs], seeds, capturing, info, f"source{first}"), "source runs")
    later = [10_000 + seed for seed in seeds]
    specs = jobs([p.target for p in pairs], later, plain, info, f"target{first}")
    return [Case(*parts) for parts in zip(seeds, pairs, sources, specs, strict=True)]


def serve(lab: Lab, table: ThresholdTable, cases: Sequence[Case], way: Way, levels: Sequence[ThresholdRow]) -> Served:
    """Serve every pair from its source kept in one way, at every level."""
    served = Served()
    states = [keep(case.source, case.number + 1, way, served.costs) for case in cases]
    targets = [case.pair.target for case in cases]
    for row in levels:
        specs = []
        for case, own in zip(cases, states, strict=True):
            judged = case.pair.kind != "retry"
            by_skip = {round(state.skip, 4): point_of(state, INFINITE, judged=judged) for state in own}
            point = entry_of(case.pair, by_skip, table, row)
            specs.append(resumed(case.spec, [point], f"{way.name} {row.skip:.3f}"))
        served.results[row.skip] = lab.run(specs, f"{way.name} at {row.skip:.0%}") if specs else []
        served.scores[row.skip] = _scores(lab, served.results[row.skip], targets)
    return served


def _scores(lab: Lab, results: Sequence[JobResult], targets: Sequence[Any]) -> Floats:
    return np.asarray(lab.judge(results, targets).score, dtype=float) if results else np.zeros(0)


def entry_of(pair: Pair, points: dict[float, ResumePoint], table: ThresholdTable, row: ThresholdRow) -> ResumePoint:
    """Enter as the service does: the same text at once, another where the table judges, and deeper if it may."""
    deep = points[round(row.skip, 4)]
    if pair.kind == "retry":
        return deep
    if table.judged_at is None:
        return replace(deep, max_divergence=row.max_divergence)
    judge = points[min(points, key=lambda skip: abs(skip - (table.judged_at or 0.0)))]
    return replace(judge, max_divergence=0.0, deeper=(replace(deep, max_divergence=row.max_divergence),))


def report_of(digest: str, cases: Sequence[Case], served: dict[Way, Served], full: Floats) -> dict[str, Any]:
    """What was measured on one model."""
    base = served[BASELINE]
    steps = [result.step_seconds for results in base.results.values() for result in results]
    step_us = float(np.median(steps)) * 1e6
    ways = {way.name: _figures(cases, one, base, full, step_us) for way, one in served.items()}
    fitting = [way.form for way in served if way.codec == "fp16" and ways[way.name]["adequate"]]
    return {
        "weights_digest": digest,
        "pairs": len(cases),
        "kinds": dict(Counter(case.pair.kind for case in cases)),
        "levels": list(base.results),
        "full_nstar": mean_interval(full),
        "ways": ways,
        # WAYS go from the roomiest form to the most compact.
        "adequate_form": fitting[-1] if fitting else "trajectory",
    }


def _figures(cases: Sequence[Case], served: Served, base: Served, full: Floats, step_us: float) -> dict[str, Any]:
    ratio = ratio_interval(served.mean_scores, base.mean_scores)
    hits = {level: int((served.hits(level) & base.hits(level)).sum()) for level in base.results}
    kept_hits = sum(hits.values()) / max(1, sum(int(base.hits(level).sum()) for level in base.results))
    to_base, to_source, to_source_retry = _distances(cases, served, base)
    costs = served.costs
    return {
        "score": mean_interval(served.mean_scores),
        "over_trajectory": ratio,
        "over_full": ratio_interval(served.mean_scores, full),
        "hits_kept": kept_hits,
        "adequate": bool(len(cases) >= FEWEST and ratio["low"] >= QUALITY and kept_hits >= HITS),
        "psnr_to_trajectory": mean_interval(to_base),
        "psnr_to_source": mean_interval(to_source),
        "psnr_to_source_of_repeats": mean_interval(to_source_retry),
        "by_level": {
            f"{level:g}": {
                "hits": hits[level],
                "of": int(base.hits(level).sum()),
                "over_trajectory": ratio_interval(served.scores[level], base.scores[level]),
            }
            for level in base.results
        },
        "entry_bytes": float(np.mean(costs.entry_bytes)),
        "state_bytes": float(np.mean(costs.state_bytes)),
        "encode_over_step": float(np.median(costs.encode_us)) / step_us,
        "decode_over_step": float(np.median(costs.decode_us)) / step_us,
    }


def _distances(cases: Sequence[Case], served: Served, base: Served) -> tuple[list[float], list[float], list[float]]:
    """PSNR of resumed pictures to the baseline's, to the source's picture, and the latter for repeats of a text."""
    to_base, to_source, repeats = list[float](), list[float](), list[float]()
    for level, results in served.results.items():
        for case, result, other in zip(cases, results, base.results[level], strict=True):
            if result.resumed is None or other.resumed is None:
                continue
            to_base.append(psnr(result.image, other.image))
            to_source.append(psnr(result.image, case.source.image))
            if case.pair.kind == "retry":
                repeats.append(to_source[-1])
    return to_base, to_source, repeats


def _headline(models: dict[str, Any], known: dict[str, dict[str, dict[str, int]]]) -> dict[str, Any]:
    sdxl = known["SDXL, 1024²"]

    def worst(way: str) -> float:
        return min(float(model["ways"][way]["over_trajectory"]["value"]) for model in models.values())

    def adequate(way: str) -> dict[str, bool]:
        return {name: bool(model["ways"][way]["adequate"]) for name, model in models.items()}

    def bytes_of(way: str) -> float:
        return sdxl[way]["entry"] / sdxl[BASELINE.name]["entry"]

    return {
        "int8_over_fp16": worst("trajectory int8"),
        "final_over_trajectory": worst("final fp16"),
        "final_noise_over_trajectory": worst("final-noise fp16"),
        "bytes_int8_over_fp16": bytes_of("trajectory int8"),
        "bytes_final_over_trajectory": bytes_of("final fp16"),
        "bytes_final_noise_over_trajectory": bytes_of("final-noise fp16"),
        "bytes_final_noise_int8_over_trajectory": bytes_of("final-noise int8"),
        "final_adequate": adequate("final fp16"),
        "final_noise_adequate": adequate("final-noise fp16"),
    }


def _rows(
    cases: Sequence[Case], served: dict[Way, Served], fulls: Sequence[JobResult], row: ThresholdRow
) -> list[Row]:
    chosen = [number for number, hit in enumerate(served[BASELINE].hits(row.skip)) if hit][:SHEET_PAIRS]
    rows = [Row("source", [(cases[n].source.image, cases[n].pair.source.text) for n in chosen])]
    for way, one in served.items():
        results = one.results[row.skip]
        labels = [cases[n].pair.kind if results[n].resumed is not None else "refused, in full" for n in chosen]
        rows.append(Row(way.name, [(results[n].image, text) for n, text in zip(chosen, labels, strict=True)]))
    return [*rows, Row("in full", [(fulls[n].image, cases[n].pair.target.text) for n in chosen])]
