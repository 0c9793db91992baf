"""Profile the deployed model and embedder: how far may a resumed picture's predictions diverge?

For pairs of prompts (a scene, then a rewording or an edit of it) every stored noise level is resumed with the
gate switched off, and the judge compares the result with a full run of the same prompt. Per level the largest
divergence is kept at which the expected loss of right attributes stays within the quality bound. The result
is the shipped table `matching.json` beside the model.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from policies.matching.table import ThresholdRow, ThresholdTable
from service.embedder import Embedder
from service.engine.base import JobResult
from service.engine.job import capture_steps
from training.lab import Lab, RunSettings, jobs, nearest_state, resume_point, resumed
from training.pairs import Pair, sample_pairs

MODEL = Path("models/scenes-unet")
LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5)
TUNING_SEED = 1001
FEWEST = 10  # fewer accepted trials are no evidence
ROUNDING = 1e-4  # equal prompts may score a little under 1 in another library's arithmetic


@dataclass(frozen=True, slots=True)
class Trial:
    """One resumed run beside the full run of the same prompt.

    Attributes:
        kind: how the prompts differ.
        skip: share of the steps skipped.
        similarity: cosine of the prompt embeddings.
        divergence: the gate's value.
        resumed: judge score of the resumed picture.
        full: judge score of the full run.
        neighbour: judge score of the source picture against the new prompt.
        scratch: judge score of a run of the same prompt with as many steps as the resumed run took.
    """

    kind: str
    skip: float
    similarity: float
    divergence: float
    resumed: float
    full: float
    neighbour: float
    scratch: float


def distinct_levels(shares: Sequence[float], steps: int) -> tuple[float, ...]:
    """The shares an N-step run can be entered at: k / N of the steps nearest to `shares`, each once."""
    return tuple(k / steps for k in capture_steps(tuple(shares), steps))


def run_trials(
    lab: Lab, embedder: Embedder, pairs: Sequence[Pair], run: RunSettings, levels: Sequence[float]
) -> list[Trial]:
    """Resume every pair at every level with the gate open; one trial per pair and level."""
    capturing = RunSettings(run.steps, run.solver, run.guidance_scale, capture=tuple(levels))
    seeds = range(len(pairs))
    sources = lab.run(jobs([p.source for p in pairs], list(seeds), capturing, lab.info, "source"), "source runs")
    target_specs = jobs([p.target for p in pairs], [10_000 + s for s in seeds], run, lab.info, "full")
    fulls = lab.run(target_specs, "full runs")
    targets = [p.target for p in pairs]
    full, neighbour = lab.judge(fulls, targets).score, lab.judge(sources, targets).score
    similarity = prompt_similarity(embedder, pairs)
    trials: list[Trial] = []
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
        trials += [
            Trial(p.kind, skipped_share(r), float(s), r.divergences[0], *map(float, row))
            for p, r, s, *row in zip(pairs, results, similarity, scores, full, neighbour, scratch, strict=True)
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


def fit_level(trials: Sequence[Trial], bound: float, steps: int) -> tuple[float, float] | None:
    """Largest divergence that keeps one level within the bound, and the similarity from which trying it pays.

    Two conditions hold at the returned divergence d: the expected loss at d itself (isotonic fit of
    full - resumed on divergence) is at most `bound`, whatever the mix of prompts; and so is the mean loss
    of all trials below d.

    Args:
        trials: all of one level.
        bound: largest expected loss.
        steps: N; an accepted attempt saves skip x N steps, a refused one wastes one.

    Returns:
        (max_divergence, min_similarity), or None when no divergence satisfies both, when no similarity is high
        enough for the saved steps to outweigh the wasted ones, or when fewer steps from scratch do better.
    """
    ordered = sorted(trials, key=lambda trial: trial.divergence)
    divergence = np.array([trial.divergence for trial in ordered])
    loss = np.array([trial.full - trial.resumed for trial in ordered])
    marginal = IsotonicRegression(increasing=True).fit_transform(divergence, loss)
    mean_below = np.cumsum(loss) / np.arange(1, len(loss) + 1)
    allowed = np.flatnonzero((marginal <= bound) & (mean_below <= bound))
    if len(allowed) == 0 or allowed[-1] < FEWEST - 1:
        return None
    most = float(divergence[allowed[-1]])
    floor = paying_similarity(trials, most, steps)
    return None if floor is None or not beats_scratch(trials, most, floor) else (most, floor)


def beats_scratch(trials: Sequence[Trial], max_divergence: float, min_similarity: float) -> bool:
    """Whether the accepted trials score at least as high as runs from scratch of equal compute."""
    accepted = [t for t in trials if t.divergence <= max_divergence and t.similarity >= min_similarity]
    return float(np.mean([t.resumed - t.scratch for t in accepted])) >= 0.0


def paying_similarity(trials: Sequence[Trial], max_divergence: float, steps: int) -> float | None:
    """The similarity floor under which attempts at this level save the most steps net of wasted ones."""
    ordered = sorted(trials, key=lambda trial: -trial.similarity)
    net = np.cumsum([t.skip * steps if t.divergence <= max_divergence else -1.0 for t in ordered])
    # A floor lies between two different similarities, so only the last of equal ones can be one.
    last_of_equals = [
        i for i, t in enumerate(ordered) if i + 1 == len(ordered) or ordered[i + 1].similarity < t.similarity
    ]
    best = max(last_of_equals, key=lambda i: float(net[i]))
    return ordered[best].similarity - ROUNDING if net[best] > 0 else None


def fit_table(
    trials: Sequence[Trial], bound: float, key: dict[str, str], about: dict[str, str], steps: int
) -> ThresholdTable:
    """Fit every level that occurs in the trials; levels that cannot hold the bound are left out."""
    rows = []
    for skip in sorted({trial.skip for trial in trials}):
        at_level = [trial for trial in trials if trial.skip == skip]
        fitted = fit_level(at_level, bound, steps)
        if fitted is not None:
            rows.append(ThresholdRow(skip=skip, max_divergence=fitted[0], min_similarity=fitted[1]))
    return ThresholdTable(rows=tuple(rows), key=key, metadata=about)


def main(argv: list[str] | None = None) -> None:
    """Write `matching.json` beside the model, and the raw trials for plots."""
    parser = argparse.ArgumentParser(prog="python -m training.calibrate", description=__doc__)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--pairs", type=int, default=240)
    parser.add_argument("--steps", type=int, default=0, help="N of the profiled runs; 0 = the model's default")
    parser.add_argument("--bound", type=float, default=0.01, help="largest mean loss of right attributes")
    parser.add_argument("--trials", type=Path, default=Path("training/runs/matching_trials.json"))
    parser.add_argument("--refit", action="store_true", help="fit the saved trials again; run nothing")
    args = parser.parse_args(argv)
    embedder = Embedder()
    with Lab(str(args.model)) as lab:
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
        }
    about = {"bound": str(args.bound), "pairs": str(args.pairs), "steps": str(run.steps), "solver": run.solver}
    args.trials.parent.mkdir(parents=True, exist_ok=True)
    args.trials.write_text(json.dumps([asdict(trial) for trial in trials]))
    table = fit_table(trials, args.bound, key, about, run.steps)
    table.save(args.model / "matching.json")
    for row in table.rows:
        print(f"skip {row.skip:.2f}: divergence <= {row.max_divergence:.4f}, similarity >= {row.min_similarity:.3f}")


if __name__ == "__main__":
    main()
