"""Device seconds per tenant and window: shared by replicas, enforced over HTTP, never a reason to fail."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from service_live import Client, LiveServer, live

from cache_store import CacheStore, StoreConfig
from cache_store.types import CacheUnavailable
from cache_store.usage import Span
from service.metrics import Metrics
from service.quota import Quota
from service.refusals import RefusedError
from service.tenant_limits import TenantLimits, TenantLimitsError, load_tenant_limits

WINDOW = 1_000_000
SPAN = Span("acme", 0, WINDOW)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[CacheStore]:
    opened = await CacheStore.open(StoreConfig(data_dir=tmp_path / "data", timeout_seconds=20.0))
    yield opened
    await opened.close()


class FakeUsage:
    """A catalogue that does not answer."""

    async def try_spend(self, *_: object) -> bool:
        raise CacheUnavailable("redis is away")

    async def correct(self, *_: object) -> None:
        raise CacheUnavailable("redis is away")


async def test_what_is_booked_counts_until_the_limit(store: CacheStore) -> None:
    assert await store.usage.used(SPAN) == 0
    assert await store.usage.try_spend(SPAN, 3.0, 5.0)
    # The last one may exceed it by what it takes itself.
    assert await store.usage.try_spend(SPAN, 3.0, 5.0)
    assert not await store.usage.try_spend(SPAN, 3.0, 5.0)
    await store.usage.correct(SPAN, -2.5)
    assert await store.usage.used(SPAN) == pytest.approx(3.5)
    assert await store.usage.try_spend(Span("other", 0, WINDOW), 3.0, 5.0)
    assert await store.usage.try_spend(Span("acme", WINDOW, WINDOW), 3.0, 5.0)


async def test_only_one_of_many_gets_the_last_of_it(store: CacheStore) -> None:
    booked = await asyncio.gather(*(store.usage.try_spend(SPAN, 5.0, 5.0) for _ in range(20)))
    assert sum(booked) == 1


async def test_a_used_up_quota_says_when_the_window_ends(store: CacheStore) -> None:
    metrics = Metrics()
    limits = {"free": TenantLimits(quota_gpu_seconds=0.0), "rich": TenantLimits(quota_gpu_seconds=50.0)}
    quota = Quota(store.usage, 5.0, WINDOW, limits, metrics)
    for seconds in (4.0, 4.0):
        span = await quota.book("acme", seconds)
        assert span is not None
    with pytest.raises(RefusedError) as caught:
        await quota.book("acme", 1.0)
    left = WINDOW - time.time() % WINDOW
    assert caught.value.reason == "quota"
    assert caught.value.retry_after == pytest.approx(left, abs=30)
    await quota.correct(span, -4.0)
    assert await quota.book("acme", 1.0) is not None
    assert await quota.book("free", 99.0) is None
    assert [await quota.book("rich", 20.0) is not None for _ in range(3)] == [True] * 3
    assert (quota.of("acme"), quota.of("free"), quota.of("rich")) == (5.0, 0.0, 50.0)


async def test_a_catalogue_that_is_away_refuses_nobody() -> None:
    metrics = Metrics()
    quota = Quota(FakeUsage(), 5.0, WINDOW, {}, metrics)  # type: ignore[arg-type]
    assert await quota.book("acme", 99.0) is None
    await quota.correct(SPAN, 1.0)
    assert b"headstart_quota_unenforced_total 1.0" in metrics.render()


class TestLimitsFile:
    def test_it_names_tenants_weights_and_quotas(self, tmp_path: Path) -> None:
        path = tmp_path / "limits.json"
        path.write_text(json.dumps({"acme": {"weight": 2}, "other": {"quota_gpu_seconds": 600}}))
        limits = load_tenant_limits(path)
        assert (limits["acme"].weight, limits["acme"].quota_gpu_seconds) == (2.0, None)
        assert (limits["other"].weight, limits["other"].quota_gpu_seconds) == (1.0, 600.0)
        assert load_tenant_limits(None) == {}

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ('{"acme": {"weight": 0}}', "acme.weight"),
            ('{"acme": {"wieght": 2}}', "acme.wieght"),
            ('{"acme": {"quota_gpu_seconds": -1}}', "acme.quota_gpu_seconds"),
            ('{"a c": {}}', "a c"),
            ("[]", "the file"),
        ],
    )
    def test_what_is_wrong_is_named_in_one_line(self, tmp_path: Path, text: str, named: str) -> None:
        path = tmp_path / "limits.json"
        path.write_text(text)
        with pytest.raises(TenantLimitsError, match=f"^HEADSTART_TENANT_LIMITS: {named}.*$"):
            load_tenant_limits(path)

    def test_a_missing_file_is_no_surprise(self, tmp_path: Path) -> None:
        with pytest.raises(TenantLimitsError, match="HEADSTART_TENANT_LIMITS: No such file"):
            load_tenant_limits(tmp_path / "none.json")


@pytest.fixture(scope="module")
def rationed(resuming_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A service whose only tenant may use next to nothing for a long time."""
    folder = tmp_path_factory.mktemp("rationed")
    quota = {"quota_gpu_seconds": "0.0001", "quota_window_seconds": "86400"}
    with live(folder, model=str(resuming_model), threads="1", **quota) as running:
        yield running


def test_over_http_the_quota_is_a_429_and_repeats_are_free(rationed: LiveServer) -> None:
    client = Client(rationed)
    wish = {"prompt": "the only cube", "num_inference_steps": 4, "seed": 3}
    client.draw(**wish)
    client.settle()
    refused = client.post({"prompt": "a cube too many", "num_inference_steps": 4})
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "quota_exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 86_400
    assert client.metric("headstart_rejected_total", reason="quota") == 1
    assert client.cache(**wish)["verdict"] == "EXACT"
    client.http.close()
