"""Profile the deployed model and embedder: how far may a resumed picture's predictions diverge?

For pairs of prompts (a scene, then a rewording or an edit of it) every stored noise level is resumed with the
gate switched off, and the judge compares the result with a full run of the same prompt. Per level the largest
divergence is kept at which the expected loss of right attributes stays within the quality bound. The divergence is
the one at the shallowest level, whatever level is resumed at: it foretells bad pictures at 30 % far better than the
divergence there does (`python -m training.calibrate` prints both). The result is the shipped table `matching.json`
beside the model.
"""

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_auc_score

from policies.matching.table import ThresholdRow, ThresholdTable
from service.embedder import Embedder
from service.engine.base import JobResult
from service.engine.job import capture_steps
from service.engine.quantise import QUANTISE
from training.lab import Lab, RunSettings, jobs, nearest_state, resume_point, resumed
from training.pairs import Pair, sample_pairs

MODEL = Path("models/scenes-unet")
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
TUNING_SEED = 1001
FEWEST = 10  # fewer accepted trials are no evidence
MARGINAL = 3.0
CONFIDENCE, DRAWS = 0.75, 200
BAD = 0.05  # a loss of right attributes that a user would see
ROUNDING = 1e-4  # equal prompts may score a little under 1 in another library's arithmetic


@dataclass(frozen=True, slots=True)
class Trial:
    """One resumed run beside the full run of the same prompt.

    Attributes:
        kind: how the prompts differ.
        skip: share of the steps skipped.
        similarity: cosine of the prompt embeddings.
        divergence: the gate's value at this level.
        early: the gate's value at the shallowest level.
        resumed: judge score of the resumed picture.
        full: judge score of the full run.
        neighbour: judge score of the source picture against the new prompt.
        scratch: judge score of a run of the same prompt from scratch with N - K steps.
        scratch_judged: the same with as many evaluations as the resumed run takes if it is judged early: one more,
            except at the level it is judged at.
    """

    kind: str
    skip: float
    similarity: float
    divergence: float
    early: float
    resumed: float
    full: float
    neighbour: float
    scratch: float
    scratch_judged: float


def distinct_levels(shares: Sequence[float], steps: int) -> tuple[float, ...]:
    """The shares an N-step run can be entered at: k / N of the steps nearest to `shares`, each once."""
    return tuple(k / steps for k in capture_steps(tuple(shares), steps))


def run_trials(
    lab: Lab, embedder: Embedder, pairs: Sequence[Pair], run: RunSettings, levels: Sequence[float]
) -> list[Trial]:
    """Resume every pair at every level, shallowest first, with the gate open; one trial per pair and level."""
    capturing = RunSettings(run.steps, run.solver, run.guidance_scale, capture=tuple(levels))
    seeds = range(len(pairs))
    sources = lab.run(jobs([p.source for p in pairs], list(seeds), capturing, lab.info, "source"), "source runs")
    target_specs = jobs([p.target for p in pairs], [10_000 + s for s in seeds], run, lab.info, "full")
    fulls = lab.run(target_specs, "full runs")
    targets = [p.target for p in pairs]
    full, neighbour = lab.judge(fulls, targets).score, lab.judge(sources, targets).score
    similarity = prompt_similarity(embedder, pairs)
    trials: list[Trial] = []
    early: list[float] = []
    before: NDArray[np.float64] | None = None
    for level in levels:
        states = [nearest_state(source.captured, level) for source in sources]
        specs = [
            resumed(spec, [resume_point(state)], f"resume{level}")
            for spec, state in zip(target_specs, states, strict=True)
        ]
        results = lab.run(specs, f"resumed at {level:.0%}")
        scores = lab.judge(results, targets).score
        fewer = RunSettings(run.steps - results[0].skipped, run.solver, run.guidance_scale)
        short = lab.run(jobs(targets, [s.seed for s in specs], fewer, lab.info, f"scratch{level}"), "equal compute")
        scratch = lab.judge(short, targets).score
        early = early or [result.divergences[0] for result in results]
        figures = (early, scores, full, neighbour, scratch, scratch if before is None else before)
        before = scratch
        trials += [
            Trial(p.kind, skipped_share(r), float(s), r.divergences[0], *map(float, row))
            for p, r, s, *row in zip(pairs, results, similarity, *figures, strict=True)
        ]
    return trials


def skipped_share(result: JobResult) -> float:
    """K ÷ N of a finished job."""
    return result.skipped / result.steps


def prompt_similarity(embedder: Embedder, pairs: Sequence[Pair]) -> NDArray[np.float64]:
    """Cosine similarity of the two prompts of each pair."""
    source = np.stack([embedder.embed_now(pair.source.text) for pair in pairs])
    target = np.stack([embedder.embed_now(pair.target.text) for pair in pairs])
    return np.asarray((source * target).sum(axis=1), dtype=float)


def fit_level(trials: Sequence[Trial], bound: float) -> float | None:
    """Largest early divergence that keeps one level within the bound.

    Three conditions hold at the returned divergence d: the mean loss (full - resumed) of all trials up to d is at
    most `bound`; the expected loss at d itself (isotonic fit) at most MARGINAL times that, so that the good ones do
    not pay for bad ones in another mix of prompts; and the trials up to d do at least as well as runs from scratch
    of equal compute.

    The largest such d of one sample is a lucky one; so it is taken for many bootstrap samples, and the value that
    CONFIDENCE of them reach is the answer.

    Args:
        trials: all of one level, of pairs whose prompts differ (a repeat diverges by nothing and tells nothing).
        bound: largest expected loss.

    Returns:
        The divergence, or None when too few samples have any.
    """
    rng = np.random.default_rng(0)
    draws = [[trials[i] for i in rng.integers(0, len(trials), len(trials))] for _ in range(DRAWS)]
    reached = sorted((_largest_fitting(draw, bound) for draw in draws), reverse=True)
    value = reached[math.ceil(CONFIDENCE * DRAWS) - 1]
    return value if value >= 0 else None


def _largest_fitting(trials: Sequence[Trial], bound: float) -> float:
    """The largest divergence that meets the conditions of `fit_level` in one sample, or -1."""
    ordered = sorted(trials, key=lambda trial: trial.early)
    divergence = np.array([trial.early for trial in ordered])
    loss = np.array([trial.full - trial.resumed for trial in ordered])
    gain = np.array([trial.resumed - trial.scratch_judged for trial in ordered])
    count = np.arange(1, len(ordered) + 1)
    marginal = IsotonicRegression(increasing=True).fit_transform(divergence, loss)
    fine = (marginal <= MARGINAL * bound) & (np.cumsum(loss) / count <= bound) & (np.cumsum(gain) / count >= 0)
    allowed = np.flatnonzero(fine)
    return float(divergence[allowed[-1]]) if len(allowed) and allowed[-1] >= FEWEST - 1 else -1.0


def fit_table(
    trials: Sequence[Trial], bound: float, key: dict[str, str], about: dict[str, str], steps: int
) -> ThresholdTable:
    """Fit every level that occurs in the trials; levels that cannot hold the bound are left out.

    A deeper level never gets a laxer bound than a shallower one. One similarity floor holds for all levels: a trial
    costs the same step whichever level it ends at.
    """
    tight = math.inf
    bounds: dict[float, float] = {}
    for skip in sorted({trial.skip for trial in trials}):
        fitted = fit_level([t for t in trials if t.skip == skip and t.kind != "retry"], bound)
        if fitted is not None:
            tight = min(tight, fitted)
            bounds[skip] = tight
    judged_at = min(trial.skip for trial in trials)
    floor = paying_similarity([t for t in trials if t.skip == judged_at], bounds, judged_at, steps)
    rows = tuple(ThresholdRow(skip, floor, value) for skip, value in bounds.items())
    return ThresholdTable(rows=rows, key=key, metadata=about, judged_at=judged_at)


def saved_steps(early: float, bounds: Mapping[float, float], judged_at: float, steps: int) -> float:
    """Steps an attempt saves net of the one spent on judging, -1 if it is refused."""
    levels = [skip for skip, value in bounds.items() if early <= value]
    if not levels:
        return -1.0
    deepest = max(levels)
    return deepest * steps - (deepest > judged_at)


def paying_similarity(trials: Sequence[Trial], bounds: Mapping[float, float], judged_at: float, steps: int) -> float:
    """The similarity floor under which attempts on different prompts save the most steps net of wasted ones.

    Never above ROUNDING below one: the same prompt is always worth an attempt.
    """
    ordered = sorted((t for t in trials if t.kind != "retry"), key=lambda trial: -trial.similarity)
    net = np.cumsum([saved_steps(t.early, bounds, judged_at, steps) for t in ordered])
    if len(net) == 0 or net.max() <= 0:
        return 1.0 - ROUNDING
    # A floor lies between two different similarities, so only the last of equal ones can be one.
    last_of_equals = [
        i for i, t in enumerate(ordered) if i + 1 == len(ordered) or ordered[i + 1].similarity < t.similarity
    ]
    best = max(last_of_equals, key=lambda i: float(net[i]))
    return min(ordered[best].similarity, 1.0) - ROUNDING


def foretelling(trials: Sequence[Trial]) -> list[str]:
    """Lines that say how well either divergence tells bad resumes (a loss of over 5 %) of different prompts."""
    lines = []
    for skip in sorted({trial.skip for trial in trials}):
        rows = [t for t in trials if t.skip == skip and t.kind != "retry"]
        bad = np.array([t.full - t.resumed > BAD for t in rows])
        if bad.all() or not bad.any():
            continue
        early = roc_auc_score(bad, [t.early for t in rows])
        own = roc_auc_score(bad, [t.divergence for t in rows])
        cosine = roc_auc_score(bad, [-t.similarity for t in rows])
        lines.append(f"skip {skip:.2f}: AUC early {early:.2f}, at the level {own:.2f}, 1 - cosine {cosine:.2f}")
    return lines


def main(argv: list[str] | None = None) -> None:
    """Write `matching.json` beside the model, and the raw trials for plots."""
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--steps", type=int, default=0, help="N of the profiled runs; 0 = the model's default")
    parser.add_argument("--bound", type=float, default=0.01, help="largest mean loss of right attributes")
    parser.add_argument("--trials", type=Path, default=Path("training/runs/matching_trials.json"))
    parser.add_argument("--refit", action="store_true", help="fit the saved trials again; run nothing")
    parser.add_argument("--quantise", choices=QUANTISE, default="none", help="of the model that will be served")
    parser.add_argument("--dtype", default="bfloat16", help="of a quantised model: its table holds for no other")
    parser.add_argument("--table", type=Path, help="where to write the table; unset = beside the model")
    args = parser.parse_args(argv)
    embedder = Embedder()
    with Lab(str(args.model), dtype=args.dtype, quantise=args.quantise) as lab:
        info = lab.info
        run = RunSettings(args.steps or info.default_steps, info.solvers[0], info.default_guidance)
        if args.refit:
            trials = [Trial(**row) for row in json.loads(args.trials.read_text())]
        else:
            levels = distinct_levels(LEVELS, run.steps)
            trials = run_trials(lab, embedder, sample_pairs(TUNING_SEED, args.pairs), run, levels)
        key = {
            "weights_digest": info.weights_digest,
            "embedder_digest": embedder.digest,
            "schedule": info.schedule,
            **({"dtype": info.dtype} if info.quantised else {}),
        }
    about = {"bound": str(args.bound), "pairs": str(args.pairs), "steps": str(run.steps), "solver": run.solver}
    args.trials.parent.mkdir(parents=True, exist_ok=True)
    args.trials.write_text(json.dumps([asdict(trial) for trial in trials]))
    table = fit_table(trials, args.bound, key, about, run.steps)
    table.save(args.table or args.model / "matching.json")
    print("\n".join(foretelling(trials)))
    for row in table.rows:
        print(f"skip {row.skip:.2f}: divergence <= {row.max_divergence:.4f}, similarity >= {row.min_similarity:.3f}")


if __name__ == "__main__":
    main()
