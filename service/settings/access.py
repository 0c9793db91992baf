"""Whose data is whose, and what may be shown."""

from typing import ClassVar

from pydantic import Field

from service.access.keyring import TENANT_PATTERN
from service.settings.section import MIB, AbsolutePath, Section


class Access(Section):
    """Keys, tenants, sharing."""

    title: ClassVar[str] = "Keys, tenants, sharing"

    tenant: str = Field(
        "default", pattern=TENANT_PATTERN, description="Tenant of all requests as long as there is no API key."
    )
    keys_file: AbsolutePath | None = Field(
        None,
        description="File of the API keys, made by `headstart keys`; unset = `keys.json` in the data folder. Several "
        "instances may share it.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Listen beyond loopback although there is no API key: whoever reaches the service may use it.",
    )
    public_quarantine_seconds: float = Field(
        3600.0,
        ge=0,
        le=10 * 365 * 86_400,
        allow_inf_nan=False,
        description="Age from which other tenants may resume from what was drawn with the scope `public`.",
    )
    public_witnesses: int = Field(
        1,
        ge=0,
        le=1000,
        description="How many tenants, besides author and reader, must have drawn the same text publicly before it "
        "shows; 0 = age alone decides.",
    )
    public_author_share: float = Field(
        0.5,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Most of what is public, per model and size, that one tenant may have drawn.",
    )
    encryption_key_file: AbsolutePath | None = Field(
        None,
        description="File with 64 hex digits: states and pictures are then encrypted (AES-256-GCM); those written "
        "without, or with another key, are absent.",
    )


class Safety(Section):
    """The safety checker, and the room for uploads."""

    title: ClassVar[str] = "Safety and uploads"

    safety: str | None = Field(
        None,
        max_length=1000,
        description="What looks at every picture before it is shown: `module:function` of one's own, or a folder of "
        "Stable Diffusion's safety checker (or of a model that has one); unset or `none` = nothing does.",
    )
    safety_seconds: float = Field(
        30.0,
        ge=1,
        le=600,
        description="Longest time a picture waits for the safety checker's verdict, and a verdict may take.",
    )
    upload_bytes: int = Field(
        16 * MIB,
        ge=1_000_000,
        le=1024 * MIB,
        description="Most bytes of a request that holds pictures: of an edit or a variation, or of its replay.",
    )
    upload_room_bytes: int = Field(
        256 * MIB,
        ge=1_000_000,
        le=1024 * 1024 * MIB,
        description="Most bytes of such requests in memory before they are drawn; a tenant may hold as much as is "
        "free: half of it alone. Beyond it requests get 429.",
    )
