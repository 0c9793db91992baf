"""What is shown to operators."""

import re
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator

from service.access.keyring import TENANT_PATTERN
from service.settings.section import Listed, Section

OTHERS = "other"
"""The label of tenants that `metric_tenants` does not name."""
MOST_METRIC_TENANTS = 100


class Watching(Section):
    """Metrics, money and energy, traces."""

    title: ClassVar[str] = "Metrics, money, energy, traces"

    open_metrics: bool = Field(
        False,
        description="Answer `/metrics` without a key; else an operator's is needed, once there are keys. Its figures "
        "are sums over all tenants.",
    )
    gpu_price_per_hour: float | None = Field(
        None,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="What an hour of the device costs; makes the money on the dashboard. Unset = no money shown.",
    )
    gpu_currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="Currency of that price, in three letters.")
    gpu_watts: float | None = Field(
        None,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="Mean watts the device draws while it works; where it stays on, less those it draws idle. Makes "
        "the kWh on the dashboard. Unset = none shown.",
    )
    metric_tenants: Listed[str] = Field(
        (),
        description="Tenants, separated by commas, whose pictures and device seconds `/metrics` counts by name, all "
        "others as `other`; none = no metric names a tenant. Not with `OPEN_METRICS`.",
    )
    traces_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector that traces go to by OTLP over HTTP, `http://host:4318`; unset = as "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says, and without that none are made. Needs the extra `otel`.",
    )

    @field_validator("metric_tenants")
    @classmethod
    def _check_tenants(cls, tenants: tuple[str, ...], others: ValidationInfo) -> tuple[str, ...]:
        bad = next((name for name in tenants if not re.fullmatch(TENANT_PATTERN, name)), None)
        if bad is not None or OTHERS in tenants:
            raise ValueError(f"{bad or OTHERS!r} is no name of a tenant to be counted by")
        if len(tenants) > MOST_METRIC_TENANTS:
            raise ValueError(f"at most {MOST_METRIC_TENANTS} tenants are counted by name")
        if tenants and others.data.get("open_metrics"):
            raise ValueError("not with OPEN_METRICS: whoever reads the metrics would read of each tenant")
        return tuple(dict.fromkeys(tenants))

    @field_validator("traces_endpoint")
    @classmethod
    def _check_address(cls, url: str | None) -> str | None:
        parts = urlsplit(url or "http://none")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise ValueError("must be http://host:port or https://host:port")
        if "@" in parts.netloc:
            raise ValueError("credentials belong in OTEL_EXPORTER_OTLP_HEADERS")
        return url or None
