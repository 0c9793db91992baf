"""Totals of the whole service and of tenants: what device time is in them, and whose."""

from dataclasses import replace

import pytest
from service_samples import plan, request

from service.tenant_totals import TenantTotals
from service.types import CacheOptions, VerdictKind

SHARED = CacheOptions(scope="public", share_read=True)


@pytest.mark.parametrize(
    ("kind", "cache", "own"),
    [
        (VerdictKind.APPROX, CacheOptions(), 2.0),
        (VerdictKind.MISS, CacheOptions(), 2.0),
        (VerdictKind.APPROX, SHARED, 0.0),
        (VerdictKind.MISS, SHARED, 0.0),
        (VerdictKind.BYPASS, SHARED, 2.0),
        (VerdictKind.REFRESH, SHARED, 2.0),
    ],
)
def test_device_time_is_its_tenants_unless_others_were_searched(
    kind: VerdictKind, cache: CacheOptions, own: float
) -> None:
    totals = TenantTotals()
    totals.note_spent(replace(plan(kind), request=request(tenant="acme", cache=cache)), 2.0)
    assert totals.everybody.gpu_seconds == 2.0
    assert (totals.of("acme").gpu_seconds, totals.of("other").gpu_seconds) == (own, 0.0)
