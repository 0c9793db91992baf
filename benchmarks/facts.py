"""What every benchmark reports beside its figures: machine facts and intervals."""

import os
import platform
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def machine_facts() -> dict[str, Any]:
    """Processor, cores and library versions: context for ratios, never something to compare."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
    }


def mean_interval(values: Sequence[float] | Floats, *, seed: int = 0, draws: int = 4000) -> dict[str, float]:
    """Mean with a 95 % percentile-bootstrap interval over the sample."""
    return statistic_interval([np.asarray(values, dtype=float)], lambda rows: float(rows[0].mean()), seed, draws)


def ratio_interval(
    above: Sequence[float] | Floats, below: Sequence[float] | Floats, *, seed: int = 0, draws: int = 4000
) -> dict[str, float]:
    """Ratio of two paired means with a 95 % bootstrap interval (pairs are drawn together)."""
    rows = [np.asarray(above, dtype=float), np.asarray(below, dtype=float)]
    return statistic_interval(rows, lambda both: float(both[0].mean() / both[1].mean()), seed, draws)


def statistic_interval(
    rows: list[Floats], statistic: Callable[[list[Floats]], float], seed: int, draws: int
) -> dict[str, float]:
    """Any statistic of paired rows with a 95 % bootstrap interval; `n` is the number of pairs."""
    count = len(rows[0])
    if count == 0:
        return {"value": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, count, size=(draws, count))
    samples = [statistic([row[pick] for row in rows]) for pick in picks]
    low, high = np.percentile(samples, [2.5, 97.5])
    return {"value": statistic(rows), "low": float(low), "high": float(high), "n": count}


def interval(figure: dict[str, float], scale: float = 1.0, digits: int = 3) -> str:
    """A value with its 95 % interval."""
    value, low, high = (figure[name] * scale for name in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"
