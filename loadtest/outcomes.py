"""What came of each request of a replay. No prompts, no keys: a log's line and a tenant's name stand for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HITS = ("EXACT", "APPROX")
REFUSING = (429, 503)
TIMER_SLACK = 0.05
"""A sleep may end this many seconds early."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """The service said "not now".

    Attributes:
        sent: when the request was sent, seconds since the run's start.
        finished: when the refusal had arrived.
        status: 429 or 503.
        retry_after: seconds it promised, or None.
    """

    sent: float
    finished: float
    status: int
    retry_after: float | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request and its answer.

    Attributes:
        number: its place in the schedule, from 0.
        line: the log row's line.
        intended: when it should have been sent, seconds since the run's start.
        sent: when it was first sent.
        finished: when its last answer was complete.
        user: who asked, if the log says.
        kind: what the user did, if the log says.
        tenant: name of the key it was sent with, or None.
        asked: class of work: size and steps.
        attempts: how often it was sent.
        last_sent: when the last attempt was sent.
        refusals: refused attempts, in order.
        error: why it failed, or None.
        verdict: the cache's verdict.
        reason: the verdict's reason.
        steps: N.
        skipped: K.
        wasted: steps run and thrown away.
        similarity: of the neighbour, or None.
        saved_gpu_seconds: as the service reports them.
        spent_gpu_seconds: device time the answer says it took, or None.
        cache_status: `hit`, or why it was forwarded, as in the service's `Cache-Status`; None: there was none.
        seed: the seed used.
        image: file name of the saved picture, or None.
    """

    number: int
    line: int
    intended: float
    sent: float
    finished: float
    user: str | None = None
    kind: str | None = None
    tenant: str | None = None
    asked: str = ""
    attempts: int = 1
    last_sent: float = 0.0
    refusals: tuple[Refusal, ...] = ()
    error: str | None = None
    verdict: str | None = None
    reason: str | None = None
    steps: int = 0
    skipped: int = 0
    wasted: int = 0
    similarity: float | None = None
    saved_gpu_seconds: float = 0.0
    spent_gpu_seconds: float | None = None
    cache_status: str | None = None
    seed: int | None = None
    image: str | None = None

    @property
    def latency(self) -> float:
        """Seconds from the intended start: waiting to be sent counts, as it would for a user."""
        return self.finished - self.intended

    @property
    def lateness(self) -> float:
        """Seconds from the intended start to the first attempt: the load generator's own delay."""
        return self.sent - self.intended

    @property
    def answered(self) -> bool:
        """Whether a picture came."""
        return self.error is None


def outcome_of(fields: Mapping[str, Any]) -> Outcome:
    """Rebuild an outcome from `dataclasses.asdict`, as it comes from a worker or a report file."""
    refusals = tuple(Refusal(**one) for one in fields["refusals"])
    return Outcome(**{**fields, "refusals": refusals})


@dataclass(frozen=True, slots=True)
class Comeback:
    """Another attempt after a refusal that named a time.

    Attributes:
        promised: seconds in `Retry-After`.
        waited: seconds the client waited.
        accepted: whether this attempt was not refused again.
    """

    promised: float
    waited: float
    accepted: bool

    @property
    def honoured(self) -> bool:
        """Whether the client waited as long as it was told."""
        return self.waited >= self.promised - TIMER_SLACK


def comebacks_of(outcome: Outcome) -> list[Comeback]:
    """Return each attempt after a refusal that named a time."""
    sent = [*(refusal.sent for refusal in outcome.refusals[1:]), outcome.last_sent]
    last = len(outcome.refusals) - 1
    return [
        Comeback(refusal.retry_after, after - refusal.finished, accepted=index == last)
        for index, (refusal, after) in enumerate(zip(outcome.refusals, sent, strict=False))
        if refusal.retry_after is not None and (index < last or outcome.attempts > len(outcome.refusals))
    ]
