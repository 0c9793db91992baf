"""Does a look at the neighbour's picture tell more than the gate does?

The judge scores the source run's picture under the new prompt, as a text-image scorer would in matching. It is the
very judge that tells bad hits afterwards, so this is the most that such a score could do. "Together" is a logistic
regression of bad hits on gate, picture and cosine, every pair judged by a fit on other pairs.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.facts import Floats, statistic_interval
from service.calibrate.matching.fit import excess
from service.calibrate.matching.trials import Trial
from service.judges import Judge
from service.pictures import decode
from training.judge.by_text import LOSS

FOLDS, DRAWS, REPEATS = 5, 1000, 20
CANDIDATES = 8

ValueOf = Callable[[Trial], float]


def picture_of(trial: Trial) -> float:
    """How badly the source's picture suits the new prompt."""
    return -trial.neighbour


def auc(bad: NDArray[Any], values: Floats) -> float:
    """Area under the ROC curve: the chance that a bad one has the larger value; NaN where all are alike."""
    wrong = np.asarray(bad, dtype=bool)
    count, others = int(wrong.sum()), int((~wrong).sum())
    if not (count and others) or np.isnan(values).any():
        return float("nan")
    return float((rankdata(values)[wrong].sum() - count * (count + 1) / 2) / (count * others))


def together(trials: Sequence[Trial], gate: Mapping[int, float]) -> ValueOf:
    """Risk of a bad hit by gate, picture and cosine, level by level; NaN where there are too few bad ones to fit."""
    risk: dict[tuple[int, float], float] = {}
    for level in sorted({trial.skip for trial in trials}):
        group = [trial for trial in trials if trial.skip == level]
        seen = np.array([(gate[one.pair], one.neighbour, one.similarity) for one in group])
        risk |= zip([(one.pair, level) for one in group], _out_of_fold(seen, excess(group, LOSS) > 0), strict=True)
    return lambda trial: risk[trial.pair, trial.skip]


def _out_of_fold(seen: Floats, bad: NDArray[np.bool_]) -> list[float]:
    if min(bad.sum(), (~bad).sum()) < FOLDS:
        return [float("nan")] * len(bad)
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    made = cross_val_predict(
        make_pipeline(StandardScaler(), LogisticRegression()), seen, bad, cv=folds, method="predict_proba"
    )
    return [float(risk) for risk in made[:, 1]]


def added(trials: Sequence[Trial], gate: Mapping[int, float], both: ValueOf) -> dict[str, Any]:
    """Per level but the judging one: AUC of gate and picture, and what the picture adds, with intervals."""
    found = {}
    for level in sorted({trial.skip for trial in trials})[1:]:
        group = [trial for trial in trials if trial.skip == level]
        rows = [
            (excess(group, LOSS) > 0).astype(float),
            np.array([gate[one.pair] for one in group]),
            np.array([picture_of(one) for one in group]),
            np.array([both(one) for one in group]),
        ]

        def gain(drawn: list[Floats], over: int) -> float:
            return auc(drawn[0], drawn[3]) - auc(drawn[0], drawn[over])

        def alone(drawn: list[Floats], which: int) -> float:
            return auc(drawn[0], drawn[which])

        found[f"{level:g}"] = {
            "bad": int(rows[0].sum()),
            "gate": statistic_interval(rows, lambda drawn: alone(drawn, 1), 0, DRAWS),
            "picture": statistic_interval(rows, lambda drawn: alone(drawn, 2), 0, DRAWS),
            "together": statistic_interval(rows, lambda drawn: alone(drawn, 3), 0, DRAWS),
            "together_over_gate": statistic_interval(rows, lambda drawn: gain(drawn, 1), 0, DRAWS),
        }
    return found


def picture_milliseconds(judge: Judge, png: bytes, prompt: str, evaluate: Callable[[], object]) -> dict[str, float]:
    """Median wall time of looking at one stored picture, at those of all candidates, and of one evaluation."""

    def look(count: int) -> None:
        judge.score([decode(png) for _ in range(count)], [prompt] * count)

    return {
        "one picture": _median(lambda: look(1)),
        "all candidates": _median(lambda: look(CANDIDATES)),
        "evaluation": _median(evaluate),
    }


def _median(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        spent.append(1000 * (time.perf_counter() - started))
    return float(np.median(spent))
