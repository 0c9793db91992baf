"""Is a busy service still in time? Open-loop arrivals at half to twice its capacity, with and without admission.

Goodput is what was answered within three times the time a picture takes alone. A client that is refused comes back
when it is told to; its time then runs from the attempt that was let in.
"""

import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.live import running_service
from benchmarks.overload_arrivals import arrivals, attainable, burstiness, source
from benchmarks.overload_client import TOO_MANY, OpenLoop, Visitor, closed_loop
from benchmarks.overload_depth import depth
from benchmarks.overload_fairness import fairness
from benchmarks.overload_stages import stages

LOADS = (0.5, 0.9, 1.5, 2.0)
SLO_FACTOR = 3.0
MAX_BATCH = 4
# A picture should take long enough for whole seconds of Retry-After to mean something.
ALONE_SECONDS = 1.0
BASE_STEPS = 8
LEAST_STEPS, MOST_STEPS = 4, 200
OFF = {"cache": {"mode": "off"}}
ARMS: dict[str, dict[str, str]] = {
    "admission": {"admission": "predicted-finish", "slo_factor": str(SLO_FACTOR)},
    "none": {"admission": "queue-limit", "queue_limit": "100000"},
}
RETURNS = 3
CAPACITY_REQUESTS = 10
SEED = 7


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure; `quick`: shorter stretches of the trace, two loads."""
    seconds, loads = (30.0, (2.0, 0.9)) if quick else (50.0, LOADS)
    rows = []
    for load in loads:
        for arm in ARMS:
            rows.append(_arm(arm, load, seconds))
            if not quiet:
                print({name: rows[-1][name] for name in ("arm", "load", "goodput_over_capacity")}, file=sys.stderr)
    fair = fairness(seconds=seconds / 2, max_batch=MAX_BATCH)
    report = {
        "arrivals": source(),
        "seconds_each": seconds,
        "slo_factor": SLO_FACTOR,
        "max_batch": MAX_BATCH,
        "rows": rows,
        "fairness": fair,
        "stages": stages(quick=quick),
        "depth": depth(),
    }
    return report | {"headline": _headline(report)}


def _headline(report: dict[str, Any]) -> dict[str, float]:
    of = {(row["arm"], row["load"]): row for row in report["rows"]}
    kept, none = of["admission", 2.0], of["none", 2.0]
    return {
        "goodput_over_capacity_2x": kept["goodput_over_capacity"],
        "goodput_over_attainable_2x": kept["goodput_over_attainable"],
        "goodput_over_capacity_2x_without": none["goodput_over_capacity"],
        "retry_after_kept_2x": kept["retry_kept"],
        "jain_fair": report["fairness"]["fair"]["jain"],
        "jain_arrival_order": report["fairness"]["arrival order"]["jain"],
    }


def _arm(arm: str, load: float, seconds: float) -> dict[str, Any]:
    """One service, measured as it is on this machine now, then loaded."""
    settings = ARMS[arm] | {"max_batch": str(MAX_BATCH), "threads": "1", "log_level": "warning"}
    with (
        tempfile.TemporaryDirectory(prefix="headstart-") as folder,
        running_service(Path(folder), settings) as service,
    ):
        url = service.url
        wish, alone = _calibrate(url)
        before = _capacity(url, wish)
        patience = SLO_FACTOR * alone
        times = arrivals(max(2, round(load * before * seconds)), seconds, SEED)
        visitors = OpenLoop(url, wish, returns=RETURNS, until=seconds + 2 * patience).run(times)
        after = _capacity(url, wish)
    # Others use this machine, too: its speed before and after.
    capacity = (before + after) / 2
    ends = attainable(times, capacity, patience)
    best = _rate(ends, patience, seconds)
    return {
        "arm": arm,
        "load": load,
        "steps": wish["num_inference_steps"],
        "alone_seconds": alone,
        "capacity": capacity,
        "capacity_before_after": [before, after],
        "attainable_over_capacity": min(1.0, best / capacity),
        **burstiness(times, patience),
        **_outcome(visitors, patience, seconds, capacity, best),
    }


def _calibrate(url: str) -> tuple[dict[str, Any], float]:
    """Return a wish that takes about `ALONE_SECONDS` alone, and what it takes."""
    first = closed_loop(url, {"num_inference_steps": BASE_STEPS, **OFF}, clients=1, each=4)[1:]
    each = statistics.median(one.ended - one.sent for one in first) / BASE_STEPS
    wish = {"num_inference_steps": min(MOST_STEPS, max(LEAST_STEPS, round(ALONE_SECONDS / each))), **OFF}
    alone = closed_loop(url, wish, clients=1, each=5)
    return wish, statistics.median(one.ended - one.sent for one in alone)


def _capacity(url: str, wish: dict[str, Any]) -> float:
    """Pictures a second with several in work, the start left out."""
    # As many as are in time: none is refused.
    clients = min(MAX_BATCH, int(SLO_FACTOR) - 1)
    attempts = closed_loop(url, wish, clients=clients, each=CAPACITY_REQUESTS // clients)
    done = sorted(one.ended for one in attempts if one.status == 200)
    return (len(done) - clients) / (done[-1] - done[clients - 1])


def _rate(ends: Sequence[float], first: float, last: float) -> float:
    """Return how many ended per second; the beginning, when nothing can have ended yet, is left out."""
    return sum(first <= end <= last for end in ends) / (last - first)


def _outcome(
    visitors: Sequence[Visitor], patience: float, seconds: float, capacity: float, best: float
) -> dict[str, Any]:
    served = [attempt for one in visitors for attempt in one.attempts if attempt.status == 200]
    timely = [one for one in served if one.ended - one.sent <= patience]
    first = [one for one in visitors if one.attempts and one.attempts[0].status == TOO_MANY]
    back = [
        (before, after) for one in visitors for before, after in zip(one.attempts, one.attempts[1:], strict=False)
    ]
    kept = [after.status == 200 for _, after in back]
    goodput = _rate([one.ended for one in timely], patience, seconds)
    delays = sorted(one.ended - one.sent for one in served)
    return {
        "arrivals_count": len(visitors),
        "served": len(served),
        "in_time": len(timely),
        "refused_at_first": len(first),
        "never_answered": sum(one.attempts[-1].status != 200 for one in visitors if one.attempts),
        "goodput_over_capacity": goodput / capacity,
        "goodput_over_attainable": goodput / best if best else float("nan"),
        "in_time_share_of_served": len(timely) / max(1, len(served)),
        "returns": len(back),
        "retry_kept": sum(kept) / len(kept) if kept else float("nan"),
        "seconds_p50": delays[len(delays) // 2],
        "seconds_p95": delays[int(0.95 * (len(delays) - 1))],
        "patience_seconds": patience,
    }
