"""What encoding a picture to draw over costs: counted, booked, charged, foreseen."""

import dataclasses

import numpy as np
import pytest
from service_samples import INFO, result

from cache_store.usage import Span
from policies.admission import make_admission
from service.admission import Admission
from service.engine.base import JobSpec, Progress
from service.engine.reference import Reference
from service.metrics import Metrics
from service.pace import RunPace
from service.quota import Quota

ENCODING = 0.5
EDIT = JobSpec("r1", "a cube", "", 7, 8, 2.0, "ddim", 32, 32)
EDIT = dataclasses.replace(EDIT, reference=Reference(np.zeros((32, 32, 3), np.uint8), 1.0, "d"), tenant="acme")
TEXT = dataclasses.replace(EDIT, reference=None)


class Ledger:
    """A catalogue's counters that hold what was booked."""

    def __init__(self) -> None:
        self.used = 0.0

    async def try_spend(self, span: Span, seconds: float, quota: float) -> bool:
        self.used += seconds
        return True

    async def correct(self, span: Span, seconds: float) -> None:
        self.used += seconds


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def admission(ledger: Ledger, metrics: Metrics) -> Admission:
    quota = Quota(ledger, 100.0, 3600, {}, metrics)  # type: ignore[arg-type]
    policy = make_admission("queue-limit", limit=8, slo_factor=0.0)
    return Admission(policy, INFO, quota, metrics, slots=8, pixels=1 << 20, promises=8, limits={})


def _spent(metrics: Metrics, name: str) -> float:
    return metrics.registry.get_sample_value(f"headstart_{name}_total") or 0.0


async def test_a_finished_edit_pays_for_its_picture(admission: Admission, ledger: Ledger, metrics: Metrics) -> None:
    made = result(encode_seconds=ENCODING)
    async with admission.charge(EDIT) as place:
        place.note(made)
    metrics.note_run(made)
    whole = ENCODING + made.denoise_seconds + made.decode_seconds
    found = (ledger.used, place.spent, _spent(metrics, "gpu_seconds"), made.device_seconds)
    assert found == pytest.approx((whole,) * 4)


async def test_an_edit_given_up_at_once_pays_for_its_picture(
    admission: Admission, ledger: Ledger, metrics: Metrics
) -> None:
    async with admission.charge(EDIT) as place:
        place.note(Progress("r1", 0, 8, 0, encode_seconds=ENCODING))
    assert ledger.used == pytest.approx(ENCODING)
    assert _spent(metrics, "given_up_gpu_seconds") == pytest.approx(ENCODING)


def test_the_forecast_knows_of_it_and_texts_do_not_pay() -> None:
    pace = RunPace(INFO)
    pace.learn(EDIT, result(encode_seconds=ENCODING))
    edit, text = pace.work(EDIT), pace.work(TEXT)
    assert pace.device_seconds(edit) - pace.device_seconds(text) == pytest.approx(ENCODING)
    pace.learn(TEXT, result())
    assert pace.work(EDIT).decode_seconds - pace.work(TEXT).decode_seconds == pytest.approx(ENCODING)
