"""When requests come: a production trace, compressed, or a stated synthetic process where there is none."""

from collections.abc import Sequence

import numpy as np

from benchmarks.workloads import data_folder, production_trace

# Of the synthetic process: gamma-distributed gaps with this coefficient of variation. Those of the production trace
# have 12 over weeks, less inside an hour.
SYNTHETIC_CV = 3.0
TRACE = "traces/genai_image_requests.csv.gz"


def source() -> str:
    """Say where the arrivals come from."""
    if data_folder() is not None:
        return "production trace (Alibaba cluster-trace-v2026-GenAI), compressed"
    return f"synthetic: gamma-distributed gaps, coefficient of variation {SYNTHETIC_CV:g} (HEADSTART_DATA is not set)"


def arrivals(count: int, seconds: float, seed: int) -> list[float]:
    """Return `count` arrival times that fill `seconds`, from 0.

    Args:
        count: how many.
        seconds: into how long a stretch of the trace is compressed.
        seed: decides which stretch.
    """
    rng = np.random.default_rng(seed)
    folder = data_folder()
    if folder is None:
        shape = 1 / SYNTHETIC_CV**2
        times = np.cumsum(rng.gamma(shape, 1 / shape, count))
    else:
        asks = production_trace(folder / TRACE)
        start = int(rng.integers(0, len(asks) - count))
        times = np.array([moment for moment, _, _ in asks[start : start + count]])
    times = times - times[0]
    # The last gap counts, too: else a stretch is a little denser than its rate.
    whole = times[-1] * count / max(1, count - 1)
    return [float(time) for time in times * (seconds / max(whole, 1e-9))]


def burstiness(times: Sequence[float], window: float) -> dict[str, float]:
    """Return the coefficient of variation of the gaps, and the fullest window's arrivals over the mean window's."""
    gaps = np.diff(times)
    counts = [sum(start <= time < start + window for time in times) for start in times]
    mean = len(times) * window / (times[-1] + 1e-9)
    return {"gap_cv": float(gaps.std() / gaps.mean()), "peak_over_mean": max(counts) / mean}


def attainable(times: Sequence[float], rate: float, patience: float) -> list[float]:
    """Return when those would be finished who could at best be in time on a device that does `rate` a second.

    Equal pictures served in turn: taking every one that can still be in time is optimal.
    """
    free, ends = 0.0, []
    for time in times:
        end = max(free, time) + 1 / rate
        if end - time <= patience:
            free = end
            ends.append(end)
    return ends
