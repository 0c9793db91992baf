"""Prometheus metrics: base units, bounded labels, never a prompt or an id in a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from service.audit_metrics import AuditMetrics
from service.engine.base import JobResult, ModelInfo
from service.features import OFF, metric_label
from service.gauges import Gauges
from service.refusals import REASONS
from service.safety.guard import OUTCOMES
from service.savings_metrics import UNKNOWN, NetSavings, Price, TenantMetrics, show_price
from service.types import FeatureVerdict, Verdict, VerdictKind
from service.verdicts import saved_by_features

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56)
SIMILARITY = (0.0, 0.3, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
COMPUTE_SHARE = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
RATIOS = (0.25, 0.5, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0)
DIVERGENCE = (0.005, 0.01, 0.015, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.16, 0.24, 0.32, 0.5, 1.0)


class Metrics:
    """All metrics of one service, in a registry of its own.

    Args:
        price: what device time is worth.
        tenants: those that are counted by name.
    """

    def __init__(self, price: Price = UNKNOWN, tenants: tuple[str, ...] = ()) -> None:
        self.registry = CollectorRegistry()
        self.gauges = Gauges()
        self.registry.register(self.gauges)
        self._count_requests()
        self._count_results()
        self._count_cache()
        self._count_work()
        self._count_features()
        self._count_checks()
        self.audit = AuditMetrics(self.registry)
        self.tenants = TenantMetrics(tenants, self.registry)
        show_price(price, self.registry)

    def _count_requests(self) -> None:
        self.requests = self._counter("headstart_requests", "HTTP requests answered.", ("route", "status", "cache"))
        self.duration = self._histogram(
            "headstart_request_duration_seconds", "Time to answer a generation request.", SECONDS, ("cache",)
        )
        self.queue_wait = self._histogram(
            "headstart_queue_wait_seconds", "Time a picture waited for its first step.", SECONDS
        )
        self.cancelled = self._counter(
            "headstart_cancelled", "Pictures whose client went away, by where they were.", ("where",)
        )
        for place in ("planning", "denoise", "encode"):
            self.cancelled.labels(place)
        self.rejected = self._counter("headstart_rejected", "Requests turned away with 429, by reason.", ("reason",))
        for reason in REASONS:
            self.rejected.labels(reason)
        self.finish_ratio = self._histogram(
            "headstart_finish_over_predicted", "Time to a run's end, as a multiple of what was predicted.", RATIOS
        )
        self.unenforced = self._counter(
            "headstart_quota_unenforced", "Pictures whose tenant's quota could not be looked up."
        )
        self.returned = self._counter(
            "headstart_returned", "Refused pictures that came back when they were told to.", ("outcome",)
        )

        for outcome in ("admitted", "refused"):
            self.returned.labels(outcome)

    def _count_results(self) -> None:
        self.jobs = self._counter("headstart_jobs", "Jobs that have ended, by how.", ("status",))
        self.webhooks = self._counter("headstart_webhooks", "Reports of ended jobs to webhooks.", ("outcome",))
        self.idempotent = self._counter(
            "headstart_idempotent_requests", "Requests with an idempotency key, by what came of it.", ("outcome",)
        )
        for status in ("succeeded", "failed", "cancelled"):
            self.jobs.labels(status)
        for outcome in ("delivered", "failed", "refused", "dropped"):
            self.webhooks.labels(outcome)
        for outcome in ("stored", "replayed", "reused", "in_progress", "unavailable"):
            self.idempotent.labels(outcome)

    def _count_cache(self) -> None:
        self.lookups = self._counter(
            "headstart_cache_lookups", "Pictures by what the cache did for them.", ("verdict", "reason")
        )
        self.similarity = self._histogram(
            "headstart_cache_similarity", "Cosine similarity of the neighbour used, or else of the best.", SIMILARITY
        )
        self.divergence = self._histogram(
            "headstart_cache_divergence", "Last value of the divergence gate, per picture it judged.", DIVERGENCE
        )
        self.skipped = self._counter("headstart_cache_skipped_steps", "Denoising steps the cache made unnecessary.")
        self.wasted = self._counter("headstart_cache_wasted_steps", "Denoising steps thrown away by the gate.")
        self.saved = self._counter(
            "headstart_cache_saved_gpu_seconds", "Device seconds saved by the cache, wasted steps subtracted."
        )
        self._net = NetSavings(self.saved)

    def _count_work(self) -> None:
        self.steps = self._counter("headstart_denoise_steps", "Denoising steps run, wasted ones included.")
        self.gpu = self._counter("headstart_gpu_seconds", "Device seconds spent on pictures that were finished.")
        self.given_up = self._counter(
            "headstart_given_up_gpu_seconds", "Device seconds of pictures given up, steps thrown away included."
        )
        self.stage = self._histogram("headstart_stage_seconds", "Time per stage of a picture.", SECONDS, ("stage",))
        self.step = self._histogram(
            "headstart_denoise_step_seconds", "Mean device time of a step of a picture.", STEP_SECONDS
        )

    def _count_features(self) -> None:
        self.feature_requests = self._counter(
            "headstart_feature_cache_requests",
            "Pictures by the feature cache policy that ran, or else was asked for, and what came of it.",
            ("policy", "outcome"),
        )
        self.compute_share = self._histogram(
            "headstart_feature_compute_share",
            "Multiplications executed, of those without feature caching, per picture it ran for.",
            COMPUTE_SHARE,
        )
        self.saved_by_features = self._counter(
            "headstart_saved_feature_seconds",
            "Estimated device seconds feature caching saved on the steps that were run.",
        )

    def _count_checks(self) -> None:
        self.safety = self._counter(
            "headstart_safety_checks",
            "Pictures shown to the safety checker, and what it said; or refused before they were drawn.",
            ("picture", "outcome"),
        )
        for picture in ("drawn", "stored"):
            for outcome in OUTCOMES:
                self.safety.labels(picture, outcome)

    def note_run(self, result: JobResult) -> None:
        """Count what a finished run cost."""
        self.steps.inc(result.steps_run)
        self.gpu.inc(result.device_seconds)
        self.queue_wait.observe(result.queue_seconds)
        self.step.observe(result.step_seconds)
        self.saved_by_features.inc(saved_by_features(result))
        self.stage.labels("denoise").observe(result.denoise_seconds)
        self.stage.labels("decode").observe(result.decode_seconds)

    def note_verdict(self, verdict: Verdict) -> None:
        """Count what the cache did for an answered picture."""
        self.lookups.labels(verdict.kind.value, verdict.reason).inc()
        self.skipped.inc(verdict.skipped)
        self.wasted.inc(verdict.wasted)
        self._net.add(verdict.saved_gpu_seconds)
        self._note_features(verdict.features)
        if verdict.similarity is not None and verdict.kind is not VerdictKind.EXACT:
            self.similarity.observe(verdict.similarity)
        if verdict.divergence is not None:
            self.divergence.observe(verdict.divergence)

    def _note_features(self, features: FeatureVerdict) -> None:
        ran = features.policy != OFF and features.reason is None
        label = metric_label(features.requested if features.policy == OFF else features.policy)
        outcome = features.reason or ("ran" if ran else OFF)
        self.feature_requests.labels(label, outcome).inc()
        if ran and features.compute_share is not None:
            self.compute_share.observe(features.compute_share)

    def describe(self, version: str, info: ModelInfo) -> None:
        """Export what is served, as labels of a metric that is always 1."""
        labels = {"version": version, "model": info.model_id, "family": info.family, "dtype": info.dtype}
        text = "What is served."
        gauge = Gauge("headstart_build_info", text, (*labels, "device"), registry=self.registry)
        gauge.labels(**labels, device=info.device).set(1)

    def render(self) -> bytes:
        """Return the exposition text, with the gauges last taken."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)
