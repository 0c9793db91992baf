"""Who is let in when there is more to do than time."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field, field_validator

from policies.admission import POLICIES
from service.settings.section import Section


class LoadLimits(Section):
    """Queue, admission, quotas."""

    title: ClassVar[str] = "Load"

    queue_limit: int = Field(64, ge=1, description="Pictures in work or waiting; beyond it requests get 429.")
    admission: str = Field(
        "predicted-finish",
        description="Which pictures are refused early, with 429 and a time to come back: `predicted-finish` those "
        "whose predicted finish is after their deadline or `SLO_FACTOR`; `early-rejection` and "
        "`early-rejection-predicted` look at denoising and decoding apart; `queue-limit` only counts.",
    )
    slo_factor: float = Field(
        0.0,
        ge=0,
        le=1000,
        allow_inf_nan=False,
        description="How late a picture may be, in times what it takes alone and uncached, say 3; later ones are "
        "refused on arrival. 0 = only deadlines count.",
    )
    quota_gpu_seconds: float = Field(
        0.0,
        ge=0,
        le=1e9,
        allow_inf_nan=False,
        description="Device seconds a tenant may use per `QUOTA_WINDOW_SECONDS`; beyond it requests get 429 until "
        "the window ends. 0 = no bound.",
    )
    quota_window_seconds: int = Field(
        3600, ge=1, le=31 * 86_400, description="Length of a quota's window; windows begin at whole multiples of it."
    )
    tenant_limits: Path | None = Field(
        None,
        description='JSON file of what differs by tenant: `{"acme": {"weight": 2, "quota_gpu_seconds": 600}}`; '
        "`weight` is its share of a busy device, 1 for all others.",
    )

    @field_validator("admission")
    @classmethod
    def _check_admission(cls, name: str) -> str:
        if name not in POLICIES:
            raise ValueError(f"must be one of {', '.join(POLICIES)}")
        return name

    @field_validator("slo_factor")
    @classmethod
    def _check_factor(cls, factor: float) -> float:
        if 0 < factor < 1:
            raise ValueError("must be 0 or at least 1: nothing is faster than alone")
        return factor
