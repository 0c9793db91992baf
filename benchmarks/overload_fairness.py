"""Three tenants ask for more than there is, one of them for most: who gets the device?"""

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from service.access.identity import NO_RIGHTS, Identity
from service.api.schema import GenerationBody
from service.api.wishes import order_of
from service.assembly import Service, open_service
from service.generator import Wish
from service.metrics import Metrics
from service.settings import Settings

# How many requests each tenant keeps in work: the crowd would get nine of twelve places in order of arrival.
CROWDS = {"crowd": 18, "small": 4, "smaller": 2}
STEPS = 8


def jain(shares: Sequence[float]) -> float:
    """Return Jain's fairness index: 1 if all are equal, 1 / n if one has everything."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else float("nan")


def fairness(*, seconds: float, max_batch: int) -> dict[str, Any]:
    """Return device seconds by tenant and Jain's index, in order of arrival and by fair share.

    Args:
        seconds: of each run.
        max_batch: pictures that step together.
    """
    kinds = {"arrival order": True, "fair": False}
    return {kind: asyncio.run(_measure(seconds, max_batch, alike=alike)) for kind, alike in kinds.items()}


async def _measure(seconds: float, max_batch: int, *, alike: bool) -> dict[str, Any]:
    """`alike`: the engine is told one name for all, and so serves in order of arrival."""
    with tempfile.TemporaryDirectory(prefix="headstart-") as folder:
        chosen = {"data_dir": Path(folder) / "data", "max_batch": max_batch, "threads": 1, "log_level": "warning"}
        settings = Settings.model_validate(chosen)
        async with open_service(settings, Metrics()) as service:
            end = time.monotonic() + seconds
            spent = dict.fromkeys(CROWDS, 0.0)
            clients = [
                _client(service, tenant, end, spent, called="everybody" if alike else tenant)
                for tenant, count in CROWDS.items()
                for _ in range(count)
            ]
            await asyncio.gather(*clients)
    total = sum(spent.values())
    return {"shares": {tenant: used / total for tenant, used in spent.items()}, "jain": jain(list(spent.values()))}


async def _client(service: Service, tenant: str, end: float, spent: dict[str, float], *, called: str) -> None:
    """Ask again and again, without a break; what ends after the end does not count."""
    body = GenerationBody.model_validate(
        {"prompt": f"a picture for {tenant}", "num_inference_steps": STEPS, "cache": {"mode": "off"}}
    )
    while time.monotonic() < end:
        request = order_of(body, "", service.info, service.settings, Identity(called, NO_RIGHTS)).requests[0]
        made = await service.generator.generate(request, Wish())
        if time.monotonic() < end:
            spent[tenant] += made.denoise_seconds + made.decode_seconds
