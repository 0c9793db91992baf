"""When does predicting the second stage matter? Two stages in simulation, the second from idle to the bottleneck.

Mooncake (arXiv 2407.00079) rejects early by the load of both its stages, as it is or as it will be. Its stages are
denoising and decoding here, which are two only where decoding goes on beside the steps (CUDA). The arrivals are
gamma-distributed in bursts; the policies are the service's own, asked as the service asks them.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from policies.admission import Ask, Load, Work, make_admission
from policies.admission.forecast import forecast, later
from policies.admission.pace import StepPace
from policies.admission.retry import drained

POLICIES = ("queue-limit", "early-rejection", "early-rejection-predicted", "predicted-finish")
# Time of decoding over time of denoising, per picture, with the batch full.
DECODE_SHARES = (0.02, 0.25, 0.5, 1.0, 1.5)
SLOTS = 4
STEPS = 20
SLO_FACTOR = 3.0
LOAD = 2.0
PACE = StepPace(0.0, 0.0125)
"""A step of one picture in a batch of `SLOTS` takes 1/80 s: four pictures a second."""
CV = 2.0


class _Device:
    """The two stages, advanced from arrival to arrival by the forecast's own rules."""

    def __init__(self) -> None:
        self.load = Load((), SLOTS, PACE, beside=True)
        self.ends: dict[str, float] = {}
        self._clock = 0.0

    def advance(self, to: float) -> None:
        """Let time pass, and note who is finished."""
        for job, finish in zip(self.load.jobs, forecast(self.load), strict=True):
            if self._clock + finish.done <= to:
                self.ends[job.tenant] = self._clock + finish.done
        self.load = later(self.load, to - self._clock)
        self._clock = to

    def add(self, job: Work) -> None:
        """Let a picture in."""
        self.load = replace(self.load, jobs=(*self.load.jobs, job))


def stages(*, quick: bool) -> list[dict[str, Any]]:
    """Return goodput over what the slower stage can do, by share of decoding and policy."""
    count = 150 if quick else 400
    return [_point(share, count) for share in DECODE_SHARES]


def _point(share: float, count: int) -> dict[str, Any]:
    denoise = STEPS * PACE.seconds(1.0)
    work = Work(STEPS, 1.0, decode_seconds=share * denoise)
    capacity = 1 / max(denoise, work.decode_seconds)
    rng = np.random.default_rng(3)
    shape = 1 / CV**2
    times = np.cumsum(rng.gamma(shape, 1 / (shape * LOAD * capacity), count))
    figures = {name: _goodput(name, work, times.tolist()) for name in POLICIES}
    return {"decode_over_denoise": share} | {
        name: {key: value / capacity if key == "goodput" else value for key, value in one.items()}
        for name, one in figures.items()
    }


def _goodput(name: str, work: Work, times: list[float]) -> dict[str, float]:
    """Serve `times`; return pictures in time per second, and the share of those let in that were late."""
    policy = make_admission(name, limit=10**9, slo_factor=SLO_FACTOR)
    patience = SLO_FACTOR * (STEPS * PACE.seconds(1.0) + work.decode_seconds)
    device, admitted = _Device(), {}
    for number, time in enumerate(times):
        device.advance(time)
        # Tenants of one picture each are served in order of arrival, and tell the pictures apart.
        job = replace(work, tenant=f"{number:06}")
        if policy.decide(Ask(job, STEPS), device.load).admitted:
            device.add(replace(job, due=patience))
            admitted[job.tenant] = time
    device.advance(times[-1] + drained(device.load) + 1.0)
    timely = sum(device.ends[name] - time <= patience for name, time in admitted.items())
    return {"goodput": timely / (times[-1] - times[0]), "late_share": 1 - timely / max(1, len(admitted))}
