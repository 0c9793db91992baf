"""What routes may ask for."""

from typing import Annotated, cast

from fastapi import Depends, Request

from service.assembly import Service


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceOf = Annotated[Service, Depends(_service)]


async def _tenant(service: ServiceOf) -> str:
    return service.settings.tenant


TenantOf = Annotated[str, Depends(_tenant)]
"""Whose request it is: the one place that decides."""
