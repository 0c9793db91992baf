"""What routes may ask for."""

from typing import Annotated, cast

from fastapi import Depends, Request

from service.assembly import Service


def _service(request: Request) -> Service:
    return cast(Service, request.app.state.service)


ServiceOf = Annotated[Service, Depends(_service)]
