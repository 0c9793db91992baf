"""A run cut into equal pieces of time, by intended start."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from loadtest.figures import Slo, percentile
from loadtest.outcomes import Outcome

WIDTHS = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
PIECES = 40
FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Piece:
    """The requests due in one piece of time.

    Attributes:
        start: seconds since the run's start.
        width: seconds.
        requests: how many were due.
        good: how many were answered within the SLO.
        p50: seconds from the intended start; None without answers.
        p95: likewise.
        p99: likewise.
        mix: requests by verdict; `failed` where there was no answer.
    """

    start: float
    width: float
    requests: int
    good: int
    p50: float | None
    p95: float | None
    p99: float | None
    mix: dict[str, int]


def width_for(seconds: float) -> float:
    """Return a round width that cuts `seconds` into at most about 40 pieces."""
    return next((width for width in WIDTHS if seconds / width <= PIECES), math.ceil(seconds / PIECES))


def cut(outcomes: Sequence[Outcome], width: float, slo: Slo | None = None) -> list[Piece]:
    """Cut a run into pieces, those without requests included."""
    if not outcomes:
        return []
    by_piece: dict[int, list[Outcome]] = {}
    for one in outcomes:
        by_piece.setdefault(int(one.intended // width), []).append(one)
    return [_piece(number * width, width, by_piece.get(number, []), slo) for number in range(max(by_piece) + 1)]


def _piece(start: float, width: float, outcomes: list[Outcome], slo: Slo | None) -> Piece:
    latencies = [one.latency for one in outcomes if one.answered]
    ranks = [percentile(latencies, rank) if latencies else None for rank in (50, 95, 99)]
    good = sum(slo.kept(one) for one in outcomes) if slo is not None and slo.known else 0
    mix: dict[str, int] = {}
    for one in outcomes:
        name = one.verdict if one.answered and one.verdict else FAILED
        mix[name] = mix.get(name, 0) + 1
    return Piece(start, width, len(outcomes), good, ranks[0], ranks[1], ranks[2], mix)
