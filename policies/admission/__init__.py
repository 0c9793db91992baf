"""May a picture enter, and whose turn is it?"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from policies.admission.base import AdmissionPolicy, Ask, Decision, Load, Reason, Work
from policies.admission.early_rejection import EarlyRejection
from policies.admission.early_rejection_predicted import PredictedEarlyRejection
from policies.admission.fair_share import FairShare
from policies.admission.predicted_finish import PredictedFinish
from policies.admission.queue_limit import QueueLimit
from policies.admission.staged import StagedAdmission

STAGED: Mapping[str, Callable[[float], StagedAdmission]] = MappingProxyType(
    {policy.name: policy for policy in (PredictedFinish, EarlyRejection, PredictedEarlyRejection)}
)
POLICIES = (QueueLimit.name, *STAGED)
"""The names `make_admission` knows."""


def make_admission(name: str, *, limit: int, slo_factor: float) -> AdmissionPolicy:
    """Return the admission policy called `name`.

    Args:
        name: one of `POLICIES`.
        limit: most pictures inside, of "queue-limit".
        slo_factor: of the others, see `StagedAdmission`.

    Raises:
        ValueError: no policy has that name; the message lists those that exist.
    """
    if name == QueueLimit.name:
        return QueueLimit(limit)
    if name not in STAGED:
        raise ValueError(f"unknown admission policy {name!r}; known: {', '.join(POLICIES)}")
    return STAGED[name](slo_factor)


__all__ = [
    "POLICIES",
    "AdmissionPolicy",
    "Ask",
    "Decision",
    "EarlyRejection",
    "FairShare",
    "Load",
    "PredictedEarlyRejection",
    "PredictedFinish",
    "QueueLimit",
    "Reason",
    "StagedAdmission",
    "Work",
    "make_admission",
]
