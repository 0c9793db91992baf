"""What routes may ask for. All are coroutines: FastAPI hands any other dependency to a thread, for every request."""

from typing import Annotated, cast

from fastapi import Depends, HTTPException, Request

from service.access import Identity
from service.assembly import Service


async def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceOf = Annotated[Service, Depends(_service)]


async def _identity(request: Request) -> Identity:
    return cast(Identity, request.state.identity)


IdentityOf = Annotated[Identity, Depends(_identity)]
"""Whose the request is: the one place a route may take a tenant from."""


async def _operator(identity: IdentityOf) -> Identity:
    if not identity.rights.operator:
        raise HTTPException(403)
    return identity


async def _metrics_reader(request: Request, service: ServiceOf) -> None:
    if not service.settings.open_metrics:
        await _operator(await _identity(request))


MetricsReader = Depends(_metrics_reader)
"""Lets an operator pass, or everybody where the settings say so."""
OperatorOf = Annotated[Identity, Depends(_operator)]
"""As `IdentityOf`, for routes whose answers or effects reach beyond one tenant."""
