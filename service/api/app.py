"""The HTTP application."""

import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI

from service.access import Keyring
from service.api import (
    errors,
    page,
    routes_audit,
    routes_cache,
    routes_events,
    routes_explain,
    routes_generations,
    routes_images,
    routes_status,
)
from service.api.documented import IMAGE_EVENT_PARTS, UNAUTHORIZED_ERROR
from service.api.gate import PROBES, Gate
from service.api.middleware import Envelope
from service.assembly import StartError, open_service
from service.metrics import Metrics
from service.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Return the application; its parts start and stop with its lifespan."""
    metrics = Metrics()
    keyring = Keyring(settings.keys_path, settings.tenant)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        try:
            async with open_service(settings, metrics) as running:
                app.state.service = running
                log.info("ready", extra={"model": running.info.model_id})
                yield
        except StartError as error:
            log.error("cannot start: %s", error)
            raise

    app = FastAPI(
        title="Headstart",
        version="0.1.0",
        summary="Text-to-image generation that resumes from earlier, similar pictures.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    statuses = (routes_cache, routes_explain, routes_audit, routes_status)
    for routes in (routes_images, routes_events, routes_generations, *statuses):
        app.include_router(routes.router)
    errors.install(app)
    app.add_middleware(Gate, keyring=keyring, open_metrics=settings.open_metrics)
    app.add_middleware(Envelope, metrics=metrics)
    page.install(app)
    _complete_description(app)
    return app


_UNAUTHORIZED = {
    "401": {
        "description": UNAUTHORIZED_ERROR[401]["description"],
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}},
    }
}


def _complete_description(app: FastAPI) -> None:
    """Add the events' parts and the keys, drop the framework's 422: a wrong field is answered with the envelope."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for path, operations in document["paths"].items():
            for operation in operations.values():
                operation["responses"].pop("422", None)
                if path not in PROBES:
                    operation["security"] = [{"key": []}, {}]
                    operation["responses"] |= _UNAUTHORIZED
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        parts = document["components"]["schemas"]
        parts |= IMAGE_EVENT_PARTS
        for name in ("HTTPValidationError", "ValidationError"):
            parts.pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
