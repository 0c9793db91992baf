"""The schedule of a replay: every request with its due time, drawn once from the log, the options and a seed.

Equal log, options and seed give an equal schedule in every process: that is how several workers share one without
sending it around, and how the uncached control run sends exactly the same requests at the same times.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from loadtest.arrivals import Arrivals, arrival_times, scaled_times
from loadtest.mixes import Mix, is_size, is_steps
from loadtest.prompt_log import LogRow
from loadtest.tenants import draw_tenants

ARRIVALS, TENANTS, SIZES, STEPS = range(4)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What turns a log into a schedule.

    Attributes:
        arrivals: when requests are due.
        speed: a log's times are divided by this.
        sizes: pictures' sizes.
        steps: denoising steps.
        tenants: how many there are; 0 sends no key.
        skew: Zipf exponent of the tenants.
        dice: seed of all that is drawn.
    """

    arrivals: Arrivals = field(default_factory=Arrivals)
    speed: float = 1.0
    sizes: Mix = field(default_factory=Mix)
    steps: Mix = field(default_factory=Mix)
    tenants: int = 0
    skew: float = 1.0
    dice: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """One request of a schedule.

    Attributes:
        number: its place, from 0.
        row: the log's row.
        due: seconds from the run's start; None: as soon as a client is free (closed loop).
        tenant: which of the keys, or None.
        size: `WIDTHxHEIGHT`, or None for the service's default.
        steps: N, or None for the service's default.
    """

    number: int
    row: LogRow
    due: float | None = None
    tenant: int | None = None
    size: str | None = None
    steps: int | None = None

    @property
    def asked(self) -> str:
        """The class of work it asks for: what alone takes the same time."""
        size = self.size or "default size"
        return f"{size}, default steps" if self.steps is None else f"{size}, {self.steps} steps"

    def body(self, cache_mode: str) -> dict[str, Any]:
        """The JSON to send."""
        body: dict[str, Any] = {"prompt": self.row.prompt, "cache": {"mode": cache_mode}}
        fields = {"seed": self.row.seed, "size": self.size, "num_inference_steps": self.steps}
        return body | {name: value for name, value in fields.items() if value is not None}


def build_schedule(rows: Sequence[LogRow], wishes: Wishes) -> list[Request]:
    """Draw the schedule.

    Args:
        rows: of a log, in order; at least one.
        wishes: the rest.

    Raises:
        ValueError: the log cannot be replayed this way.
    """

    def dice(what: int) -> np.random.Generator:
        # A stream for each thing drawn: another mix of sizes must not move the arrivals.
        return np.random.default_rng([wishes.dice, what])

    times = _times(rows, wishes, dice(ARRIVALS))
    tenants: Sequence[int | None] = [None] * len(rows)
    if wishes.tenants:
        tenants = draw_tenants(rows, wishes.tenants, wishes.skew, dice(TENANTS))
    sizes = _values(rows, wishes.sizes, "size", is_size, dice(SIZES))
    steps = _values(rows, wishes.steps, "steps", is_steps, dice(STEPS))
    parts = zip(rows, times, tenants, sizes, [int(text) if text else None for text in steps], strict=True)
    return [Request(number, *part) for number, part in enumerate(parts)]


def _values(
    rows: Sequence[LogRow], mix: Mix, column: Literal["size", "steps"], sound: Callable[[str], bool],
    rng: np.random.Generator,
) -> list[str | None]:  # fmt: skip
    """Draw a column, or take it from the log."""
    if not mix.from_log:
        return mix.draw(len(rows), rng)
    values = [row.size if column == "size" else row.steps for row in rows]
    for row, value in zip(rows, values, strict=True):
        if value is not None and not sound(value):
            raise ValueError(f"line {row.line} of the log: column '{column}' cannot be sent: {value!r}")
    return values


def _times(rows: Sequence[LogRow], wishes: Wishes, rng: np.random.Generator) -> Sequence[float | None]:
    arrivals = wishes.arrivals
    if arrivals.process != "log":
        return arrival_times(arrivals, len(rows), rng)
    times = [row.time for row in rows if row.time is not None]
    if not times:
        if arrivals.rate is not None:
            raise ValueError("--rate needs a log with times, or --arrivals")
        return [None] * len(rows)
    return scaled_times(times, speed=wishes.speed, rate=arrivals.rate)


def share_of(schedule: Sequence[Request], share: int, shares: int) -> list[Request]:
    """Return the part of worker `share` (from 0) of `shares`: every request is in exactly one part.

    Requests are dealt out in turn, so that every worker has the whole run's ups and downs.
    """
    if not 0 <= share < shares:
        raise ValueError(f"share {share} of {shares} does not exist")
    return list(schedule[share::shares])


def digest_of(schedule: Sequence[Request]) -> str:
    """Return a fingerprint: processes with equal ones have equal schedules."""
    digest = hashlib.sha256()
    for one in schedule:
        digest.update(repr((one.row, one.due, one.tenant, one.size, one.steps)).encode())
    return digest.hexdigest()
