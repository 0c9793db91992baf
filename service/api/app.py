"""The HTTP application."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from service.access import Keyring
from service.api import (
    errors,
    page,
    routes_audit,
    routes_cache,
    routes_edits,
    routes_events,
    routes_explain,
    routes_generations,
    routes_images,
    routes_jobs,
    routes_pictures,
    routes_status,
)
from service.api.gate import Gate
from service.api.middleware import Envelope
from service.api.openapi import describe
from service.api.upload_gate import UploadGate
from service.assembly import MakeEngine, StartError, open_service
from service.engine import make_engine
from service.metrics import Metrics
from service.savings_metrics import price_of
from service.settings import Settings
from service.tracing import open_tracing
from service.upload_room import UploadRoom

log = logging.getLogger(__name__)


def create_app(settings: Settings, engine: MakeEngine = make_engine) -> FastAPI:
    """Return the application; its parts, with the engine that `engine` makes, start and stop with its lifespan."""
    metrics = Metrics(price_of(settings), settings.metric_tenants)
    tracing = open_tracing(settings.traces_endpoint)
    keyring = Keyring(settings.keys_path, settings.tenant)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        try:
            async with open_service(settings, metrics, engine) as running:
                app.state.service = running
                metrics.describe(app.version, running.info)
                log.info("ready", extra={"model": running.info.model_id})
                yield
        except StartError as error:
            log.error("cannot start: %s", error)
            raise
        finally:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="Headstart",
        version="0.1.0",
        summary="Text-to-image generation that resumes from earlier, similar pictures.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    pictures = (routes_images, routes_edits, routes_pictures, routes_jobs, routes_events, routes_generations)
    for routes in (*pictures, routes_cache, routes_explain, routes_audit, routes_status):
        app.include_router(routes.router)
    errors.install(app)
    room = UploadRoom(settings.upload_room_bytes)
    app.add_middleware(UploadGate, room=room, most_bytes=settings.upload_bytes)
    app.add_middleware(Gate, keyring=keyring, open_metrics=settings.open_metrics)
    app.add_middleware(Envelope, metrics=metrics, tracing=tracing, upload_bytes=settings.upload_bytes)
    page.install(app)
    describe(app)
    return app
