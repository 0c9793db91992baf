"""Admission by predicted finish: refuse early what would be answered too late anyway."""

from collections.abc import Mapping

from policies.admission.base import Ask, Load, Reason
from policies.admission.forecast import Finish
from policies.admission.staged import StagedAdmission


class PredictedFinish(StagedAdmission):
    """Refuses a picture whose predicted finish lies after its deadline or its service level objective.

    A picture that would be late costs as much as one in time, so under overload refusing it on arrival is what keeps
    the rest in time. What a picture takes is known from its plan: a head start has fewer steps and may still be
    admitted where a full run no longer is.
    """

    name = "predicted-finish"

    def stages(self, ask: Ask, load: Load, finish: Finish) -> Mapping[Reason, float]:
        """One stage: from arrival to the decoded picture."""
        return {"late": finish.done}
