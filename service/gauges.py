"""Gauges read from the store and the engine at scrape time."""

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from cache_store.types import StoreStats
from service.engine.base import EngineStats


class Gauges(Collector):
    """Yields the snapshot last taken; no I/O happens inside the scrape itself."""

    def __init__(self) -> None:
        self._metrics: list[Metric] = []

    def take(
        self, store: StoreStats, engine: EngineStats, *, policy: str, inside: int, pending: int, backlog: float
    ) -> None:
        """Replace the snapshot.

        Args:
            store: what the store holds; not shown while it is unavailable.
            engine: the engine's counters.
            policy: name of the eviction policy, for the label.
            inside: pictures accepted and not yet answered.
            pending: cache writes noted and not yet in the store.
            backlog: predicted seconds until everything inside is finished.
        """
        self._metrics = [*_engine_metrics(engine, inside), _backlog(backlog), *_store_metrics(store, policy, pending)]

    def collect(self) -> Iterator[Metric]:
        """Yield the snapshot's metrics."""
        yield from self._metrics


def _engine_metrics(engine: EngineStats, inside: int) -> list[Metric]:
    return [
        GaugeMetricFamily("headstart_pictures_in_work", "Pictures accepted and not yet answered.", inside),
        GaugeMetricFamily("headstart_queue_depth", "Jobs waiting for their first step.", engine.waiting),
        GaugeMetricFamily("headstart_active_jobs", "Jobs in the step loop.", engine.active),
        GaugeMetricFamily("headstart_engine_ready", "1 while the engine takes jobs.", float(engine.ready)),
        CounterMetricFamily("headstart_engine_restarts", "Times the engine died and came back.", engine.restarts),
        _batch_sizes(engine.batch_sizes),
        GaugeMetricFamily(
            "headstart_feature_state_bytes", "Bytes feature caching remembers for all jobs.", engine.feature_bytes
        ),
        _feature_evaluations(engine.feature_evaluations),
    ]


def _backlog(seconds: float) -> Metric:
    return GaugeMetricFamily("headstart_backlog_seconds", "Predicted time to finish everything inside.", seconds)


def _batch_sizes(sizes: dict[int, int]) -> Metric:
    buckets, seen = [], 0
    for size in sorted(sizes):
        seen += sizes[size]
        buckets.append((str(float(size)), float(seen)))
    buckets.append(("+Inf", float(seen)))
    total = float(sum(size * count for size, count in sizes.items()))
    return HistogramMetricFamily("headstart_batch_size", "Jobs per joint step.", buckets=buckets, sum_value=total)


def _feature_evaluations(evaluations: dict[str, int]) -> Metric:
    family = CounterMetricFamily(
        "headstart_feature_evaluations", "Network evaluations of jobs with feature caching.", labels=("outcome",)
    )
    for outcome in ("computed", "reused"):
        family.add_metric((outcome,), evaluations.get(outcome, 0))
    return family


def _store_metrics(store: StoreStats, policy: str, pending: int) -> list[Metric]:
    available = GaugeMetricFamily("headstart_cache_available", "1 while the cache answers.", float(store.available))
    if not store.available:
        return [available]
    tiers = GaugeMetricFamily("headstart_cache_bytes", "Bytes held, by tier.", labels=("tier",))
    for tier, size in (("states", store.state_bytes), ("images", store.image_bytes), ("ram", store.ram_bytes)):
        tiers.add_metric((tier,), size)
    return [
        available,
        GaugeMetricFamily("headstart_cache_entries", "Generations remembered.", store.entries),
        GaugeMetricFamily(
            "headstart_index_lag_events", "Catalogue events this process has not taken in.", store.index_lag_events
        ),
        GaugeMetricFamily("headstart_cache_states", "Noise states held.", store.states),
        tiers,
        _evictions(store.evictions, policy),
        GaugeMetricFamily("headstart_cache_pending_writes", "Cache writes waiting.", pending),
        CounterMetricFamily("headstart_cache_dropped_writes", "Cache writes given up.", store.dropped_writes),
        *_regret(store),
        CounterMetricFamily("headstart_cache_corrupt_states", "States whose bytes were wrong.", store.corrupt_states),
        CounterMetricFamily("headstart_cache_repairs", "Disagreements found and mended.", store.repairs),
    ]


def _regret(store: StoreStats) -> list[Metric]:
    return [
        CounterMetricFamily(
            "headstart_cache_regret_requests",
            "Runs that an evicted state would have shortened.",
            store.regret_requests,
        ),
        CounterMetricFamily(
            "headstart_cache_regret_seconds",
            "Device seconds that evicted states would have saved.",
            store.regret_seconds,
        ),
        CounterMetricFamily(
            "headstart_eviction_predictor_queries", "Questions to the reuse predictor.", store.predictor_queries
        ),
    ]


def _evictions(evictions: dict[str, int], policy: str) -> Metric:
    family = CounterMetricFamily("headstart_cache_evictions", "Evictions, by policy.", labels=("policy",))
    for name, count in (evictions or {policy: 0}).items():
        family.add_metric((name,), count)
    return family
