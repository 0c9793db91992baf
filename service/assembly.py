"""Puts the parts together and takes them apart again, in the right order."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from cache_store.config import StoreConfig, StoreConfigError
from cache_store.sharing import SharingRules
from cache_store.store import CacheStore
from policies.admission import make_admission
from policies.features.artefact import digest_of
from policies.features.front import FrontError
from policies.matching import MatchingPolicy, NoMatching, TableError, ThresholdTable, TightenedMatching, make_matching
from policies.matching.ranking import can_judge
from service.admission import Admission
from service.audit import ShadowAudit
from service.auditing import make_audit
from service.chronicle import Chronicle
from service.embedder import Embedder, EmbedderError
from service.engine import EngineConfig, make_engine
from service.engine.admission import budget_for
from service.engine.base import Engine, EngineStartError, ModelInfo
from service.engine.lora import LoraShelf
from service.features import AUTO, FeatureCaching, complaint, load_front
from service.generator import Generator
from service.heatmaps import Heatmaps
from service.jobs.desk import JobDesk
from service.jobs.ledger import Ledger
from service.jobs.postman import Postman
from service.jobs.signing import secret_bytes
from service.jobs.targets import Targets
from service.judges import SharedJudge
from service.loras import LoraFiles
from service.memory import Memory
from service.metrics import Metrics
from service.planner import Planner
from service.provenance import versions_of
from service.quota import Quota
from service.replay import Replayer
from service.safety import Guard, SafetyCheckerError, load_checker
from service.settings import Settings
from service.tenant_limits import TenantLimitsError, load_tenant_limits
from service.tenant_totals import TenantTotals
from service.turnstile import Turnstile
from service.uploads import Darkroom

log = logging.getLogger(__name__)

# Refused pictures that can be told a time to come back, per place in the queue.
PROMISES_PER_PLACE = 4

MakeEngine = Callable[[EngineConfig], Engine]


class StartError(Exception):
    """The service cannot start; the message is one clear line."""


@dataclass(frozen=True)
class Service:
    """The running parts."""

    settings: Settings
    engine: Engine
    store: CacheStore
    planner: Planner
    generator: Generator
    replayer: Replayer
    jobs: JobDesk
    audit: ShadowAudit | None
    heatmaps: Heatmaps
    memory: Memory
    metrics: Metrics
    totals: TenantTotals
    loras: LoraFiles
    darkroom: Darkroom
    guard: Guard
    started: float

    @property
    def info(self) -> ModelInfo:
        """The served model."""
        return self.engine.info


@asynccontextmanager
async def open_service(
    settings: Settings, metrics: Metrics, make: MakeEngine = make_engine
) -> AsyncGenerator[Service, None]:
    """Start everything; on leaving, finish what runs, write what is pending, stop.

    Raises:
        StartError: a part cannot start; the message is one clear line.
    """
    async with AsyncExitStack() as stack:
        try:
            yield await _open(settings, metrics, stack, make)
        except (
            EngineStartError,
            EmbedderError,
            StoreConfigError,
            FrontError,
            TenantLimitsError,
            SafetyCheckerError,
        ) as error:
            raise StartError(str(error)) from None


async def _open(settings: Settings, metrics: Metrics, stack: AsyncExitStack, make: MakeEngine) -> Service:
    guard = await _guard(settings, metrics)
    embedder = Embedder()
    stack.push_async_callback(embedder.close)
    store = await CacheStore.open(store_config(settings))
    stack.push_async_callback(store.close)
    # What is remembered depends on the model, but is written after the engine has stopped.
    after_engine = await stack.enter_async_context(AsyncExitStack())
    config = engine_config(settings)
    engine = make(config)
    # Requests are drained before this; what still runs has no client any more.
    stack.push_async_callback(engine.close)
    if settings.engine == "process":
        await asyncio.gather(engine.start(), embedder.start())
    else:  # two models loading in threads of one process trip over the library's global state
        await engine.start()
        await embedder.start()
    table = _table(settings, engine.info, embedder.digest) if settings.matching == "calibrated" else None
    memory = Memory(store, embedder, max_depth=settings.max_depth, form=settings.state_form, table=table)
    after_engine.push_async_callback(memory.close)
    admission = open_admission(settings, engine.info, store, metrics)
    turnstile = Turnstile(settings.queue_limit, admission.wait_for)
    matching = choose_matching(settings, table)
    judge = SharedJudge(settings.judge_name) if settings.judge_name else None
    audit = make_audit(settings, table, engine, embedder.digest, store, turnstile, metrics.audit, judge)
    if audit is not None:
        matching = TightenedMatching(matching, audit.controller)
        audit.start()
        stack.push_async_callback(audit.close)
    planner = Planner(
        store,
        embedder,
        matching,
        engine.info,
        capture=settings.capture,
        candidates=settings.candidates,
        features=feature_caching(settings, engine.info, config.calibration),
        resume_approximated=settings.resume_approximated,
        isolated=settings.batch_invariant,
        safety_version=guard.version,
    )
    versions = versions_of(engine.info, embedder.digest, table, config.calibration)
    chronicle = Chronicle(store, versions, kept=settings.record_seconds > 0 and settings.records > 0)
    after_engine.push_async_callback(chronicle.close)
    replayer = Replayer(
        engine,
        store,
        chronicle,
        metrics,
        admission,
        seconds=settings.deadline_seconds,
        max_depth=settings.max_depth,
        judged_at=None if table is None else table.judged_at,
    )
    totals = TenantTotals()
    counted = (metrics, totals, turnstile)
    generator = Generator(
        planner,
        engine,
        memory,
        chronicle,
        *counted,
        admission=admission,
        guard=guard,
        audit=audit,
        log_prompts=settings.log_prompts,
    )
    loras = LoraFiles(lora_shelf(settings))
    jobs = _job_desk(settings, generator, store, metrics, stack)
    makers = (planner, generator, replayer, jobs, audit, Heatmaps(judge, store, turnstile, guard))
    helpers = (loras, Darkroom(), guard)
    return Service(settings, engine, store, *makers, memory, metrics, totals, *helpers, started=time.time())


async def _guard(settings: Settings, metrics: Metrics) -> Guard:
    checker = None if settings.safety is None else await asyncio.to_thread(load_checker, settings.safety)
    return Guard(checker, metrics.safety, patience=settings.safety_seconds)


def open_admission(settings: Settings, info: ModelInfo, store: CacheStore, metrics: Metrics) -> Admission:
    """Return what lets pictures in.

    Raises:
        TenantLimitsError: the file of what differs by tenant cannot be used.
    """
    limits = load_tenant_limits(settings.tenant_limits)
    budget = budget_for(info, settings.max_batch, settings.max_pixels)
    return Admission(
        make_admission(settings.admission, limit=settings.queue_limit, slo_factor=settings.slo_factor),
        info,
        Quota(store.usage, settings.quota_gpu_seconds, settings.quota_window_seconds, limits, metrics),
        metrics,
        slots=budget.jobs,
        pixels=budget.pixels,
        promises=PROMISES_PER_PLACE * settings.queue_limit,
        limits=limits,
    )


def _job_desk(
    settings: Settings, generator: Generator, store: CacheStore, metrics: Metrics, stack: AsyncExitStack
) -> JobDesk:
    secret = settings.webhook_secret
    key = b"" if secret is None else secret_bytes(secret.get_secret_value())
    postman = Postman(Targets(settings.webhook_hosts), key, metrics.webhooks)
    stack.push_async_callback(postman.close)
    desk = JobDesk(generator, Ledger(store.deposits), postman, metrics.jobs, most=settings.results)
    desk.start(all_mine=settings.redis_url is None)
    stack.push_async_callback(desk.close, settings.drain_seconds)
    return desk


def store_config(settings: Settings) -> StoreConfig:
    """Return the store's part of the settings."""
    return StoreConfig(
        data_dir=settings.data_dir,
        redis_url=settings.redis_url,
        object_url=settings.object_url,
        byte_budget=settings.state_bytes,
        ram_bytes=settings.ram_bytes,
        eviction=settings.eviction,
        ghost_similarity=settings.ghost_similarity,
        queue_size=settings.store_queue,
        timeout_seconds=settings.store_timeout_seconds,
        image_budget=settings.image_bytes,
        ttl_seconds=settings.ttl_seconds,
        codec=settings.state_codec,
        index_device=settings.index_device,
        generation_seconds=settings.record_seconds,
        generations=settings.records,
        sharing=SharingRules(
            settings.public_quarantine_seconds, settings.public_witnesses, settings.public_author_share
        ),
        encryption_key_file=settings.encryption_key_file,
        result_seconds=settings.result_seconds,
        results=settings.results,
        result_bytes=settings.result_bytes,
    )


def engine_config(settings: Settings) -> EngineConfig:
    """Return the engine's part of the settings."""
    return EngineConfig(
        model=settings.model,
        device=settings.device,
        dtype=settings.dtype,
        max_batch=settings.max_batch,
        max_pixels=settings.max_pixels,
        compiled=settings.compile,
        tiled_side=settings.tiled_decode_side,
        quantise=settings.quantise,
        threads=settings.threads,
        kind=settings.engine,
        log_level=settings.log_level,
        loras=lora_shelf(settings),
        features=settings.features_path,
        calibration=digest_of(settings.features_path),
        feature_bytes=settings.feature_bytes,
    )


def lora_shelf(settings: Settings) -> LoraShelf:
    """Return where LoRAs lie."""
    return LoraShelf(settings.lora_dir, settings.max_loras)


def feature_caching(settings: Settings, info: ModelInfo, calibration: str) -> FeatureCaching:
    """Return what resolves wishes for feature caching.

    Args:
        settings: the policy and the folder.
        info: the served model.
        calibration: digest of the artefacts the engine was told to use.

    Raises:
        StartError: the served model cannot run the policy of the settings.
        FrontError: the front cannot be read.
    """
    if (wrong := complaint(settings.feature_cache, info)) is not None:
        raise StartError(f"HEADSTART_FEATURE_CACHE: {wrong}")
    front = load_front(settings.features_path, info)
    if front is None and settings.feature_cache == AUTO:
        log.warning("HEADSTART_FEATURE_CACHE is auto, but this model has no front: no features are cached")
    return FeatureCaching(info, front, calibration)


def choose_matching(settings: Settings, table: ThresholdTable | None) -> MatchingPolicy:
    """Return the matching policy; `table` is that of the served model, if there is one."""
    if settings.matching == "off":
        return NoMatching("matching-off")
    if settings.matching == "paper":
        return make_matching("paper")
    return make_matching("gated", table)


def _table(settings: Settings, info: ModelInfo, embedder_digest: str) -> ThresholdTable | None:
    """Return the threshold table; one made for another model or embedder is refused, not used."""
    path = settings.table_path
    if path is None or not path.is_file():
        if settings.matching_table is not None:
            raise StartError(f"HEADSTART_MATCHING_TABLE: there is no file {path}")
        log.warning("no threshold table beside the model: exact repeats only")
        return None
    try:
        table = ThresholdTable.load(path)
    except (TableError, OSError) as error:
        raise StartError(f"threshold table {path.name}: {error}") from None
    served = {
        "weights_digest": info.weights_digest,
        "embedder_digest": embedder_digest,
        "schedule": info.schedule,
        "dtype": info.dtype,
    }
    # A table names its number type only if that is a quantised one; the float types differ too little to tell.
    if not table.matches(served) or (info.quantised and "dtype" not in table.key):
        differing = [name for name, value in table.key.items() if served.get(name) != value] or ["dtype"]
        log.warning("the threshold table was profiled on another %s: exact repeats only", ", ".join(differing))
        return None
    if table.judged_at is not None and not any(can_judge(share, table.judged_at) for share in settings.capture):
        log.warning("HEADSTART_CAPTURE has no share near %.3f: only the same text can be resumed", table.judged_at)
    return table
