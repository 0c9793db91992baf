"""Quotas: device seconds per tenant and window, counted in the catalogue so that replicas share them."""

import logging
import time
from collections.abc import Mapping

from cache_store.types import CacheUnavailable
from cache_store.usage import Span, Usage
from service.metrics import Metrics
from service.refusals import RefusedError
from service.tenant_limits import TenantLimits

log = logging.getLogger(__name__)


class Quota:
    """Books device seconds before a run, as predicted, and corrects them behind it.

    A request is admitted while anything of the quota is left, so the last one may exceed it by what it takes itself.
    While the catalogue is away nobody is refused.

    Args:
        usage: the counters.
        seconds: per tenant and window; 0 = no bound.
        window: its length in seconds.
        limits: what differs by tenant.
        metrics: where it is counted that nobody was refused.
    """

    def __init__(
        self, usage: Usage, seconds: float, window: int, limits: Mapping[str, TenantLimits], metrics: Metrics
    ) -> None:
        self._usage = usage
        self._seconds = seconds
        self._window = window
        self._limits = limits
        self._metrics = metrics

    def of(self, tenant: str) -> float:
        """Return the tenant's quota; 0 = no bound."""
        own = self._limits[tenant].quota_gpu_seconds if tenant in self._limits else None
        return self._seconds if own is None else own

    async def book(self, tenant: str, seconds: float) -> Span | None:
        """Book a run's predicted device time.

        Returns:
            What to correct it in; None where nothing was booked: no bound, or no catalogue.

        Raises:
            RefusedError: the quota of this window is used up.
        """
        quota = self.of(tenant)
        if not quota:
            return None
        now = time.time()
        span = Span(tenant, int(now - now % self._window), self._window)
        try:
            booked = await self._usage.try_spend(span, seconds, quota)
        except CacheUnavailable:
            self._metrics.unenforced.inc()
            return None
        if not booked:
            raise RefusedError("quota", span.start + self._window - now)
        return span

    async def correct(self, span: Span, seconds: float) -> None:
        """Add what a run took beyond what was booked (negative: less). A counter that is away is let be."""
        try:
            await self._usage.correct(span, seconds)
        except CacheUnavailable:
            log.info("device time was not counted: the catalogue is away")
