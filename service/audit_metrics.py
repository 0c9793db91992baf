"""Metrics of the shadow audit."""

from prometheus_client import CollectorRegistry, Counter, Gauge

from policies.matching.audit import AuditController, AuditedHit

_BAND = ("similarity", "skip")


class AuditMetrics:
    """What audits find; labels are similarity bands and levels of the table, so they are few.

    Args:
        registry: where they are collected.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, text, labels, registry=registry)

        self.hits = counter(
            "headstart_audit_hits",
            "Approximate hits audited: bad (worse than the full run by more than the judge's loss), good, even.",
            ("verdict", *_BAND),
        )
        self.rate = gauge(
            "headstart_audit_bad_hit_rate", "Bad ones less good ones, as a share of the latest audited hits.", _BAND
        )
        self.lower = gauge("headstart_audit_bad_hit_rate_lower", "Lower 95 % limit of that share.", _BAND)
        self.upper = gauge("headstart_audit_bad_hit_rate_upper", "Upper 95 % limit of that share.", _BAND)
        self.bound = gauge("headstart_audit_bound", "Largest share of bad hits less good ones that is accepted.")
        self.factor = gauge(
            "headstart_audit_tightening_factor",
            "What the table's divergence bounds are multiplied by; 1 = the table, 0 = closed.",
            ("skip",),
        )
        self.queue = gauge("headstart_audit_queue", "Hits that wait for their audit.")
        self.dropped = counter("headstart_audit_dropped", "Sampled hits that could not be audited.", ("reason",))
        for reason in ("full", "source-gone", "unjudged", "failed"):
            self.dropped.labels(reason)
        self.interrupted = counter("headstart_audit_interrupted", "Audit runs that gave way to a client.")
        self.gpu = counter("headstart_audit_gpu_seconds", "Device seconds spent on audit runs.")

    def note(self, hit: AuditedHit, level: str) -> None:
        """Count an audited hit."""
        self.hits.labels(hit.outcome, hit.band, level).inc()

    def show(self, controller: AuditController) -> None:
        """Show where the controller stands."""
        self.bound.set(controller.rules.bound)
        for gauge in (self.rate, self.lower, self.upper):
            gauge.clear()
        for band in controller.report():
            for gauge, value in ((self.rate, band.rate), (self.lower, band.lower), (self.upper, band.upper)):
                gauge.labels(band.similarity, band.skip).set(value)
        for level, factor in controller.factors.items():
            self.factor.labels(level).set(factor)
