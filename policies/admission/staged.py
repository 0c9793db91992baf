"""What the policies share that refuse early: a limit per stage, and the rule that tells when to come back."""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence

from policies.admission.base import MARGIN, AdmissionPolicy, Ask, Decision, Load, Reason, Work
from policies.admission.forecast import Finish, alone, forecast, forecast_with
from policies.admission.retry import first_admission


class StagedAdmission(AdmissionPolicy):
    """Refuses a picture if a stage is predicted to take longer than an answer may take, or if it makes others late.

    Args:
        slo_factor: the service level objective, in times what the picture takes alone and uncached; 0 = only
            deadlines count.
    """

    def __init__(self, slo_factor: float) -> None:
        self._slo_factor = slo_factor

    @abstractmethod
    def stages(self, ask: Ask, load: Load, finish: Finish) -> Mapping[Reason, float]:
        """Return the seconds each stage is held to take, by the reason for which it would refuse.

        Args:
            ask: the picture.
            load: what is inside.
            finish: predicted for the picture.
        """

    def decide(self, ask: Ask, load: Load) -> Decision:
        """Return what becomes of `ask`."""
        allowed = time_allowed(ask, load, self._slo_factor)
        finish, excess = self._judge(ask, load)
        reason = max(excess, key=lambda name: excess[name])
        if excess[reason] <= 0:
            return Decision("", finish.done, allowed)
        if alone(ask.work, load) > ask.allowed:
            return Decision("unreachable", finish.done, allowed, math.inf)
        wait = first_admission(load, excess[reason], lambda left: max(self._judge(ask, left)[1].values()) <= 0)
        return Decision(reason, finish.done, allowed, wait)

    def _judge(self, ask: Ask, load: Load) -> tuple[Finish, dict[Reason, float]]:
        """Return the predicted finish, and by reason how much too late something would be: above 0 refuses."""
        finishes = forecast_with(ask.work, load)
        stages = self.stages(ask, load, finishes[-1])
        if not load.jobs or not load.pace.known:
            return finishes[-1], dict.fromkeys(stages, 0.0)
        limit = time_allowed(ask, load, self._slo_factor) * MARGIN
        excess = {reason: seconds - limit for reason, seconds in stages.items()}
        excess["late"] = max(excess.get("late", -math.inf), _harm(ask.work, load, finishes))
        return finishes[-1], excess


def _harm(asked: Work, load: Load, finishes: Sequence[Finish]) -> float:
    """Return how late somebody inside would become who would else be in time; at most 0 if nobody.

    Who steps beside a newcomer steps more slowly. Other tenants that still wait are left out: it is fair share that
    lets a newcomer pass them, and they were served beyond theirs.
    """
    before = forecast(load)
    return max(
        (
            after.done - job.due
            for job, after, without in zip(load.jobs, finishes, before, strict=False)
            if without.done <= job.due and (job.entered or job.tenant == asked.tenant)
        ),
        default=-math.inf,
    )


def time_allowed(ask: Ask, load: Load, slo_factor: float) -> float:
    """Return the seconds an answer may take: until the deadline, and `slo_factor` times its time alone and uncached.

    Args:
        ask: the picture.
        load: whose pace tells the time alone.
        slo_factor: 0 = only the deadline counts.
    """
    if not slo_factor:
        return ask.allowed
    work = ask.work
    standalone = ask.full_steps * load.pace.seconds(work.pixels) + work.decode_seconds
    return min(ask.allowed, slo_factor * standalone - ask.waited)
