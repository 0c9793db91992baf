"""What device time is worth, and whose it was."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from service_live import Client, live

from service.metrics import Metrics
from service.savings_metrics import Price, TenantMetrics, price_of
from service.settings import SettingsError, load_settings
from service.types import Verdict, VerdictKind


def test_what_is_not_set_is_not_exported() -> None:
    text = Metrics().render().decode()
    assert "headstart_gpu_price" not in text
    assert "headstart_gpu_watts" not in text
    assert "headstart_tenant" not in text
    assert price_of(load_settings()) == Price()


def test_the_price_is_exported_as_it_was_set() -> None:
    set_ = load_settings(gpu_price_per_hour=2.5, gpu_currency="EUR", gpu_watts=0)
    registry = Metrics(price_of(set_)).registry
    assert registry.get_sample_value("headstart_gpu_price_per_hour", {"currency": "EUR"}) == 2.5
    assert registry.get_sample_value("headstart_gpu_watts") == 0


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"gpu_price_per_hour": -1}, "GPU_PRICE_PER_HOUR"),
        ({"gpu_watts": float("nan")}, "GPU_WATTS"),
        ({"gpu_currency": "euro"}, "GPU_CURRENCY"),
        ({"metric_tenants": "acme,no spaces"}, "METRIC_TENANTS"),
        ({"metric_tenants": "acme,other"}, "METRIC_TENANTS"),
        ({"metric_tenants": ",".join(f"t{index}" for index in range(101))}, "METRIC_TENANTS"),
        ({"metric_tenants": "acme", "open_metrics": True}, "METRIC_TENANTS"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, object], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        load_settings(**settings)


def test_tenants_without_a_name_of_their_own_are_one() -> None:
    registry = CollectorRegistry()
    tenants = TenantMetrics(("acme",), registry)

    def spent(tenant: str) -> float | None:
        return registry.get_sample_value("headstart_tenant_gpu_seconds_total", {"tenant": tenant})

    assert (spent("acme"), spent("other")) == (0, 0)
    for tenant in ("acme", "globex", "other", "initech"):
        tenants.spend(tenant, 2.0)
    tenants.spend("acme", -1.0)
    assert (spent("acme"), spent("other"), spent("globex")) == (2, 6, None)


def test_a_tenants_savings_are_net() -> None:
    registry = CollectorRegistry()
    tenants = TenantMetrics(("acme", "globex"), registry)
    for saved in (-1.0, -0.5, 4.0):
        tenants.note("acme", Verdict(VerdictKind.APPROX, "match", 8, saved_gpu_seconds=saved))
    tenants.note("globex", Verdict(VerdictKind.APPROX, "match", 8, saved_gpu_seconds=3.0))
    name = "headstart_tenant_saved_gpu_seconds_total"
    assert registry.get_sample_value(name, {"tenant": "acme"}) == 2.5
    assert registry.get_sample_value(name, {"tenant": "globex"}) == 3.0
    pictures = {"tenant": "acme", "verdict": "APPROX"}
    assert registry.get_sample_value("headstart_tenant_pictures_total", pictures) == 3


@pytest.fixture(scope="module")
def billed(tmp_path_factory: pytest.TempPathFactory, resuming_model: Path) -> Iterator[Client]:
    settings = {"model": str(resuming_model), "threads": "1", "metric_tenants": "default"}
    with live(tmp_path_factory.mktemp("billed"), **settings) as server:
        client = Client(server)
        yield client
        client.http.close()


def test_the_bill_is_what_was_spent_and_given_up(billed: Client) -> None:
    billed.draw("a billed cube", seed=1)
    billed.settle()
    billed.draw("a billed cube", seed=1)  # an exact repeat is free
    body = {"prompt": "a cube given up", "num_inference_steps": 200, "cache": {"mode": "off"}}
    with billed.http.stream("POST", "/v1/generations/events", json=body) as answer:
        lines = answer.iter_lines()
        for _ in range(12):  # some steps
            next(lines)
    billed.server.wait(lambda: billed.metric("headstart_given_up_gpu_seconds_total") > 0, "given up")
    spent, given_up = (billed.metric(f"headstart_{name}gpu_seconds_total") for name in ("", "given_up_"))
    bill = billed.metric("headstart_tenant_gpu_seconds_total", tenant="default")
    assert bill == pytest.approx(spent + given_up, rel=1e-6)
    stats = billed.http.get("/v1/stats").json()
    assert stats["gpu_seconds"] == pytest.approx(bill, rel=1e-6)
    assert billed.metric("headstart_tenant_gpu_seconds_total", tenant="other") == 0
    saved = billed.metric("headstart_tenant_saved_gpu_seconds_total", tenant="default")
    assert saved == billed.metric("headstart_cache_saved_gpu_seconds_total") > 0
    assert billed.metric("headstart_tenant_pictures_total", tenant="default", verdict="EXACT") == 1
