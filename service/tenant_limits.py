"""What differs by tenant: its share of a busy device, and its quota."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

TENANT = r"^[A-Za-z0-9._-]{1,64}$"


class TenantLimitsError(Exception):
    """The file cannot be used; the message is one clear line."""


class TenantLimits(BaseModel):
    """Of one tenant.

    Attributes:
        weight: of its share of a busy device.
        quota_gpu_seconds: device seconds per window, 0 = no bound; None = as everybody.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, gt=0, le=1000, allow_inf_nan=False)
    quota_gpu_seconds: float | None = Field(default=None, ge=0, le=1e9, allow_inf_nan=False)


_FILE = TypeAdapter(dict[Annotated[str, Field(pattern=TENANT)], TenantLimits])


def load_tenant_limits(path: Path | None) -> Mapping[str, TenantLimits]:
    """Read the file; without one nobody differs.

    Raises:
        TenantLimitsError: it cannot be read, or says what is not allowed.
    """
    if path is None:
        return {}
    try:
        return _FILE.validate_json(path.read_bytes())
    except OSError as error:
        raise TenantLimitsError(f"HEADSTART_TENANT_LIMITS: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise TenantLimitsError(f"HEADSTART_TENANT_LIMITS: {where}: {first['msg']}") from None
