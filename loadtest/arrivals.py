"""When requests are due: the log's own times, or an arrival process.

`gamma` draws gaps from a gamma law with a stated coefficient of variation (CV): 1 is Poisson, above 1 comes in
bursts, below 1 is more even than chance. Serving traces are fitted this way (Li et al., AlpaServe, OSDI 2023).
`on-off` is an interrupted Poisson process: silence between periods of traffic, at the stated rate on average.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PROCESSES = ("log", "uniform", "poisson", "gamma", "on-off")


@dataclass(frozen=True, slots=True)
class Arrivals:
    """An arrival process.

    Attributes:
        process: one of `PROCESSES`.
        rate: requests per second on average; None only with `log`: as the log has it.
        cv: of the gaps, for `gamma`.
        on: seconds of traffic in a row, for `on-off`.
        off: seconds of silence in a row, for `on-off`.
    """

    process: str = "log"
    rate: float | None = None
    cv: float = 1.0
    on: float = 10.0
    off: float = 10.0

    def check(self) -> None:
        """Refuse values that make no sense.

        Raises:
            ValueError: naming the option.
        """
        if self.process not in PROCESSES:
            raise ValueError(f"--arrivals must be one of {', '.join(PROCESSES)}")
        if self.rate is None and self.process != "log":
            raise ValueError(f"--arrivals {self.process} needs --rate, in requests per second")
        for name, value in (("--rate", self.rate), ("--cv", self.cv), ("--on", self.on)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be above 0")
        if not (math.isfinite(self.off) and self.off >= 0):
            raise ValueError("--off must not be negative")


def arrival_times(arrivals: Arrivals, count: int, rng: np.random.Generator) -> list[float]:
    """Draw when `count` requests are due, seconds from the first one, in order.

    Args:
        arrivals: any process but `log`.
        count: at least 1.
        rng: the dice; equal dice give equal times.
    """
    if arrivals.rate is None:
        raise ValueError("--rate is missing")
    gap = 1.0 / arrivals.rate
    if arrivals.process == "on-off":
        return _from_zero(_on_off(arrivals, rng.exponential(gap * _share_on(arrivals), count)))
    return _from_zero(np.cumsum(_gaps(arrivals, gap, count, rng)))


def scaled_times(times: Sequence[float], *, speed: float, rate: float | None) -> list[float]:
    """Compress a log's times.

    Args:
        times: seconds from the first request, in order.
        speed: divide by this.
        rate: if given, compress to this many requests per second on average instead.

    Raises:
        ValueError: a rate is asked of a log whose requests all have the same time.
    """
    if rate is None:
        return [time / speed for time in times]
    if times[-1] <= 0:
        raise ValueError("--rate needs a log whose times differ, or --arrivals")
    factor = (len(times) - 1) / rate / times[-1]
    return [time * factor for time in times]


def _gaps(arrivals: Arrivals, gap: float, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if arrivals.process == "uniform":
        return np.full(count, gap)
    cv = arrivals.cv if arrivals.process == "gamma" else 1.0
    return np.asarray(rng.gamma(1.0 / cv**2, gap * cv**2, count), np.float64)


def _share_on(arrivals: Arrivals) -> float:
    return arrivals.on / (arrivals.on + arrivals.off)


def _on_off(arrivals: Arrivals, gaps: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lay a Poisson process of the busy rate over the busy periods only."""
    busy = np.cumsum(gaps)
    period = np.floor(busy / arrivals.on)
    return np.asarray(busy + period * arrivals.off, np.float64)


def _from_zero(times: NDArray[np.float64]) -> list[float]:
    return [float(time) for time in times - times[0]]
