"""Who came back when told to, a moment too early for those inside, stands at the door instead of being sent away."""

import asyncio
import dataclasses
from contextlib import AsyncExitStack

import pytest
from service_samples import INFO, plan

from policies.admission import AdmissionPolicy, Ask, Decision, Load
from service.admission import Admission
from service.metrics import Metrics
from service.quota import Quota
from service.refusals import RefusedError
from service.types import Plan

WAIT = 0.01
TOLD_SECONDS = 1.0
"""The least that is told: whole seconds."""


class Fussy(AdmissionPolicy):
    """Refuses so many questions, whatever is asked; a policy whose answers a test can count on."""

    name = "fussy"

    def __init__(self) -> None:
        self.refusals = 0
        self.allowed = 10.0
        self.asked: list[Ask] = []

    def decide(self, ask: Ask, load: Load) -> Decision:
        """See the class."""
        self.asked.append(ask)
        if self.refusals == 0:
            return Decision(finish_seconds=0.1, allowed_seconds=self.allowed)
        self.refusals -= 1
        return Decision("late", 0.1, self.allowed, WAIT)


@pytest.fixture
def fussy() -> Fussy:
    return Fussy()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def admission(fussy: Fussy, metrics: Metrics) -> Admission:
    quota = Quota(None, 0.0, 3600, {}, metrics)  # type: ignore[arg-type]
    return Admission(fussy, INFO, quota, metrics, slots=8, pixels=1 << 20, promises=8, limits={})


@pytest.fixture
async def told(admission: Admission, fussy: Fussy) -> Plan:
    """A picture that was told to come back, at the time it was told."""
    fussy.refusals = 1
    wish = plan()
    with pytest.raises(RefusedError) as refused:
        await _enter(admission, wish)
    assert refused.value.retry_after == TOLD_SECONDS
    assert len(fussy.asked) == 1  # a newcomer is not kept waiting
    fussy.asked.clear()
    await asyncio.sleep(TOLD_SECONDS + 0.01)
    return wish


async def _enter(admission: Admission, wish: Plan) -> None:
    async with AsyncExitStack() as inside:
        await inside.enter_async_context(admission.enter(wish))


def _returned(metrics: Metrics, outcome: str) -> float:
    return metrics.registry.get_sample_value("headstart_returned_total", {"outcome": outcome}) or 0.0


async def test_it_is_let_in_as_soon_as_it_harms_nobody(
    admission: Admission, fussy: Fussy, metrics: Metrics, told: Plan
) -> None:
    fussy.refusals = 3
    await _enter(admission, told)
    assert [ask.waited for ask in fussy.asked] == sorted(ask.waited for ask in fussy.asked)
    assert fussy.asked[0].waited == 0
    assert fussy.asked[3].waited >= 3 * WAIT
    assert (_returned(metrics, "admitted"), _returned(metrics, "refused")) == (1, 0)


async def test_it_is_sent_away_where_waiting_would_make_it_late(
    admission: Admission, fussy: Fussy, metrics: Metrics, told: Plan
) -> None:
    fussy.refusals, fussy.allowed = 100, 0.1
    with pytest.raises(RefusedError):
        await _enter(admission, told)
    assert len(fussy.asked) == 1
    assert (_returned(metrics, "admitted"), _returned(metrics, "refused")) == (0, 1)


async def test_it_stands_there_no_longer_than_its_promise_holds(
    admission: Admission, fussy: Fussy, told: Plan
) -> None:
    fussy.refusals = 10_000
    async with asyncio.timeout(10):
        with pytest.raises(RefusedError):
            await _enter(admission, told)
    assert 1.5 < fussy.asked[-1].waited < 2.2


async def test_another_wish_is_not_let_in_on_its_account(admission: Admission, fussy: Fussy, told: Plan) -> None:
    fussy.refusals = 2
    other = dataclasses.replace(told, request=dataclasses.replace(told.request, prompt="another cube"))
    with pytest.raises(RefusedError):
        await _enter(admission, other)
    assert len(fussy.asked) == 1
