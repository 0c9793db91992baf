"""The contract of admission: may a planned picture enter, judged by what is inside already? No I/O, no clock."""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar, Literal

from policies.admission.pace import StepPace

Reason = Literal["", "queue_full", "late", "denoise_busy", "decode_busy", "unreachable"]
"""Why a picture was refused; "" = it was not."""

MARGIN = 0.9
"""Share of the time allowed that a picture may be predicted to take; the rest is for the error of the prediction."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is left to do for one picture.

    Attributes:
        steps: denoising steps to run, as far as known; a head start has fewer. 0 = it is being decoded.
        pixels: what each of its steps works on, network rows counted.
        decode_seconds: device time of its decoding, and of encoding what it is drawn over.
        group: pictures of one group share a forward, up to `Load.slots` of them.
        tenant: whose it is.
        weight: of its tenant's share of the device.
        entered: whether it is in the step loop already.
        due: seconds from now until it must be finished.
    """

    steps: float
    pixels: float
    decode_seconds: float = 0.0
    group: Hashable = ()
    tenant: str = ""
    weight: float = 1.0
    entered: bool = False
    due: float = math.inf


@dataclass(frozen=True, slots=True)
class Load:
    """What is inside.

    Attributes:
        jobs: pictures admitted and not answered, in order of arrival.
        slots: most pictures of one group that step together.
        pixels: most pixels one group works on at once; one picture always fits. inf = no bound.
        beside: whether decoding goes on beside the steps (two stages) or between them (one).
        pace: how long a step takes.
        promised: pictures told to come back, weighted by how likely they do: they go first.
    """

    jobs: tuple[Work, ...]
    slots: int
    pace: StepPace
    pixels: float = math.inf
    beside: bool = False
    promised: tuple[Work, ...] = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A picture that wants to enter.

    Attributes:
        work: what it takes.
        full_steps: steps it would take without the cache: what is called slow is measured against that.
        allowed: seconds until its deadline.
        waited: seconds it has stood at the door, which count for the service level objective.
    """

    work: Work
    full_steps: float
    allowed: float = math.inf
    waited: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of it.

    Attributes:
        reason: why it is refused; "" = it is admitted.
        allowed_seconds: what it may take, from now.
        finish_seconds: predicted time until its answer, if admitted now; 0 while nothing is known.
        retry_seconds: refused only: time after which it would be admitted if nobody else came; inf = never, its
            deadline is too short even for a device of its own.
    """

    reason: Reason = ""
    finish_seconds: float = 0.0
    allowed_seconds: float = math.inf
    retry_seconds: float = 0.0

    @property
    def admitted(self) -> bool:
        """Whether it may enter."""
        return not self.reason


class AdmissionPolicy(ABC):
    """Admits or refuses; pure: the same question gets the same answer.

    Every policy keeps these promises (one contract test holds all of them to it):

    - a picture that finds nothing inside is admitted: an idle device serves nobody;
    - while nothing has been measured (`StepPace.known`), no prediction refuses anything;
    - a refusal names its reason and how long to wait, which is more than 0;
    - after that wait, with nobody else come in, the same picture is admitted.
    """

    name: ClassVar[str]

    @abstractmethod
    def decide(self, ask: Ask, load: Load) -> Decision:
        """Return what becomes of `ask`, given what is inside."""
