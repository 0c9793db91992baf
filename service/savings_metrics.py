"""Metrics that turn device time into money and energy, and divide it among tenants."""

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge

from service.settings import Settings
from service.settings.watching import OTHERS
from service.types import Verdict, VerdictKind


@dataclass(frozen=True, slots=True)
class Price:
    """What device time is worth; None = not known.

    Attributes:
        per_hour: of the device, in `currency`.
        currency: three letters.
        watts: mean power the device draws while it works.
    """

    per_hour: float | None = None
    currency: str = "USD"
    watts: float | None = None


UNKNOWN = Price()


def price_of(settings: Settings) -> Price:
    """Return the price the settings name."""
    return Price(settings.gpu_price_per_hour, settings.gpu_currency, settings.gpu_watts)


def show_price(price: Price, registry: CollectorRegistry) -> None:
    """Export what is known of the price: rules and dashboards multiply by it, so that they need no editing."""
    if price.per_hour is not None:
        text = "Price of an hour of the device, as set by the operator."
        gauge = Gauge("headstart_gpu_price_per_hour", text, ("currency",), registry=registry)
        gauge.labels(price.currency).set(price.per_hour)
    if price.watts is not None:
        text = "Mean power the device draws while it works, as set by the operator."
        Gauge("headstart_gpu_watts", text, registry=registry).set(price.watts)


class NetSavings:
    """Counts what is saved, net, in a counter, which cannot fall: what refused resumes cost is paid back first.

    Args:
        counter: holds what is saved.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._debt = 0.0

    def add(self, seconds: float) -> None:
        """Count a saving, or, below 0, a loss."""
        self._debt -= seconds
        if self._debt < 0:
            self._counter.inc(-self._debt)
            self._debt = 0.0


class TenantMetrics:
    """Pictures and device seconds of the tenants that are counted by name; nothing without any.

    Args:
        tenants: their names; all others are one.
        registry: where they are collected.
    """

    def __init__(self, tenants: tuple[str, ...], registry: CollectorRegistry) -> None:
        self._names = (*tenants, OTHERS) if tenants else ()
        if not tenants:
            return
        self._pictures = Counter(
            "headstart_tenant_pictures", "Pictures answered, by tenant.", ("tenant", "verdict"), registry=registry
        )
        self._spent = Counter(
            "headstart_tenant_gpu_seconds",
            "Device seconds a tenant's pictures took, those given up included: what its quota is charged.",
            ("tenant",),
            registry=registry,
        )
        saved = Counter(
            "headstart_tenant_saved_gpu_seconds",
            "Device seconds saved by the cache, wasted steps subtracted, by tenant.",
            ("tenant",),
            registry=registry,
        )
        self._saved = {name: NetSavings(saved.labels(name)) for name in self._names}
        for name in self._names:
            self._spent.labels(name)
            for kind in VerdictKind:
                self._pictures.labels(name, kind.value)

    def spend(self, tenant: str, seconds: float) -> None:
        """Count device seconds."""
        if self._names:
            self._spent.labels(self._label(tenant)).inc(max(0.0, seconds))

    def note(self, tenant: str, verdict: Verdict) -> None:
        """Count an answered picture."""
        if self._names:
            self._pictures.labels(self._label(tenant), verdict.kind.value).inc()
            self._saved[self._label(tenant)].add(verdict.saved_gpu_seconds)

    def _label(self, tenant: str) -> str:
        return tenant if tenant in self._names else OTHERS
