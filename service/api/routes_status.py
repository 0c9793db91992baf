"""Health, metrics, totals and the served model."""

import time
from importlib import metadata
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from cache_store.types import CacheUnavailable, StoreStats
from service.api.dependencies import IdentityOf, MetricsReader, ServiceOf
from service.api.documented import LOOKUP_ERRORS
from service.api.errors import InvalidRequestError
from service.api.schema import ModelBody, ModelList, ReadyBody, StatsBody, VersionBody
from service.assembly import Service

router = APIRouter()


@router.get("/livez", summary="Is the process alive?")
async def livez() -> dict[str, str]:
    """Answer as long as the event loop turns."""
    return {"status": "ok"}


@router.get(
    "/readyz",
    response_model=ReadyBody,
    summary="Can it draw?",
    responses={503: {"model": ReadyBody, "description": "The engine is not ready, or the safety checker hangs."}},
)
async def readyz(service: ServiceOf) -> JSONResponse:
    """Ready means the engine takes jobs and the safety checker judges; the cache is reported but not required."""
    engine = service.engine.stats.ready
    safety = service.guard.state(service.generator.admission.drawn)
    ready = engine and safety != "unavailable"
    stats = await service.store.stats()
    cache = "ok" if stats.available else "unavailable"
    status, drawing = ("ok" if up else "unavailable" for up in (ready, engine))
    body = {"status": status, "engine": drawing, "cache": cache, "safety": safety}
    return JSONResponse(body, 200 if ready else 503)


@router.get("/startupz", summary="Has it started?")
async def startupz(service: ServiceOf) -> dict[str, str]:
    """Answer once the model is loaded: before that nothing listens."""
    return {"status": "ok", "model": service.info.model_id}


@router.get("/version", summary="What runs here")
async def version(service: ServiceOf) -> VersionBody:
    """Return the versions of the service, of its API and of the model."""
    return VersionBody(
        version=metadata.version("headstart"),
        model=service.info.model_id,
        weights_digest=service.info.weights_digest,
        embedder_digest=service.planner.embedder_digest,
    )


@router.get("/metrics", include_in_schema=False, dependencies=[MetricsReader])
async def metrics(service: ServiceOf) -> Response:
    """Return the Prometheus exposition."""
    service.metrics.gauges.take(
        await service.store.stats(),
        service.engine.stats,
        policy=service.settings.eviction,
        inside=service.generator.turnstile.inside,
        pending=service.memory.pending,
        backlog=service.generator.admission.backlog_seconds,
    )
    return Response(service.metrics.render(), headers={"Content-Type": CONTENT_TYPE_LATEST})


@router.get("/v1/models", summary="Served models")
async def models(service: ServiceOf) -> ModelList:
    """Return the one served model."""
    return ModelList(data=[_model(service)])


@router.get("/v1/models/{model_id:path}", responses=LOOKUP_ERRORS, summary="One served model")
async def model(service: ServiceOf, model_id: Annotated[str, Path(max_length=500)]) -> ModelBody:
    """Return a served model by id."""
    if model_id != service.info.model_id:
        raise InvalidRequestError("model", "model: not served here", code="model_not_found", status=404)
    return _model(service)


@router.get("/v1/stats", summary="Running totals")
async def stats(service: ServiceOf, identity: IdentityOf) -> StatsBody:
    """Return totals since the start and what the cache holds: an operator's key the whole, others their tenant's."""
    everybody, info = identity.rights.operator, service.info
    totals = service.totals.everybody if everybody else service.totals.of(identity.tenant)
    return StatsBody(
        model=info.model_id,
        default_steps=info.default_steps,
        default_guidance=info.default_guidance,
        uptime_seconds=time.time() - service.started,
        requests=sum(totals.verdicts.values()),
        verdicts={kind.value: count for kind, count in totals.verdicts.items()},
        steps_total=totals.steps,
        skipped_steps=totals.skipped,
        wasted_steps=totals.wasted,
        saved_gpu_seconds=totals.saved_gpu_seconds,
        saved_feature_seconds=totals.saved_feature_seconds,
        gpu_seconds=totals.gpu_seconds,
        cache=_cache(await service.store.stats(), service.memory.pending)
        if everybody
        else await _own_cache(service, identity.tenant),
        engine=_engine(service) if everybody else {"ready": service.engine.stats.ready},
    )


def _model(service: Service) -> ModelBody:
    info = service.info
    return ModelBody(
        id=info.model_id,
        created=int(service.started),
        owned_by="headstart",
        default_steps=info.default_steps,
        default_guidance=info.default_guidance,
        default_size=f"{info.width}x{info.height}",
        solvers=list(info.solvers),
        feature_policies=list(info.feature_policies),
    )


def _cache(stats: StoreStats, pending: int) -> dict[str, Any]:
    if not stats.available:
        return {"available": False}
    return {
        "available": True,
        "entries": stats.entries,
        "states": stats.states,
        "state_bytes": stats.state_bytes,
        "image_bytes": stats.image_bytes,
        "ram_bytes": stats.ram_bytes,
        "pending_writes": pending,
    }


async def _own_cache(service: Service, tenant: str) -> dict[str, Any]:
    try:
        return {"available": True, "entries": await service.store.count(tenant)}
    except CacheUnavailable:
        return {"available": False}


def _engine(service: Service) -> dict[str, Any]:
    stats = service.engine.stats
    return {"ready": stats.ready, "active": stats.active, "waiting": stats.waiting, "restarts": stats.restarts}
