"""What the policies share that refuse early: a limit per stage, and the rule that tells when to come back."""

import math
from abc import abstractmethod
from collections.abc import Mapping

from policies.admission.base import MARGIN, AdmissionPolicy, Ask, Decision, Load, Reason
from policies.admission.forecast import Finish, alone, finish_of
from policies.admission.retry import coming_back, first_admission


class StagedAdmission(AdmissionPolicy):
    """Refuses a picture if a stage is predicted to take longer than an answer may take.

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
        finish, excess = self._judge(ask, load)
        reason = max(excess, key=lambda name: excess[name])
        if excess[reason] <= 0:
            return Decision(finish_seconds=finish.done)
        if alone(ask.work, load) > ask.allowed:
            return Decision("unreachable", finish.done, math.inf)
        again = coming_back(ask)
        wait = first_admission(load, excess[reason], lambda left: max(self._judge(again, left)[1].values()) <= 0)
        return Decision(reason, finish.done, wait)

    def _judge(self, ask: Ask, load: Load) -> tuple[Finish, Mapping[Reason, float]]:
        """Return the predicted finish, and per stage by how much it is too late: above 0 refuses."""
        finish = finish_of(ask.work, load)
        stages = self.stages(ask, load, finish)
        if not load.jobs or not load.pace.known:
            return finish, dict.fromkeys(stages, 0.0)
        limit = time_allowed(ask, load, self._slo_factor) * (1.0 if ask.promised else MARGIN)
        return finish, {reason: seconds - limit for reason, seconds in stages.items()}


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
    return min(ask.allowed, slo_factor * standalone)
