"""What is kept, where, and for how long."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator

from service.jobs.signing import secret_bytes
from service.jobs.targets import Targets
from service.settings.section import MIB, AbsolutePath, Listed, Section


class Storage(Section):
    """The store of noise states and pictures."""

    title: ClassVar[str] = "What is kept, and where"

    data_dir: AbsolutePath = Field(
        Path("var/headstart"), description="Folder of the private Redis, the noise states and the pictures."
    )
    redis_url: str | None = Field(
        None, description="A shared Redis as catalogue; unset starts a private one in the data folder."
    )
    object_url: str | None = Field(
        None, description="Where states and pictures live (`s3://…`, `gs://…`, `file:///…`); unset = data folder."
    )
    state_bytes: int = Field(2048 * MIB, ge=0, description="Most bytes of noise states kept.")
    image_bytes: int = Field(1024 * MIB, ge=0, description="Most bytes of finished pictures kept for exact repeats.")
    ram_bytes: int = Field(128 * MIB, ge=0, description="Bytes of states held in memory in front of them; 0 = none.")
    index_device: Literal["cpu", "gpu"] = Field(
        "cpu",
        description="Where large partitions of the vector index are trained; `gpu` needs faiss-gpu. Searches, adds "
        "and deletes run on the CPU.",
    )
    eviction: str = Field("lhd", min_length=1, description="Eviction policy of noise states.")
    state_codec: Literal["fp16", "int8"] = Field(
        "fp16",
        description="How noise states are written: `fp16` as the engine has them, so that a resumed run equals the "
        "one it came from, or `int8`, half the bytes. States of either are read.",
    )
    state_form: Literal["auto", "trajectory", "final-noise", "final"] = Field(
        "auto",
        description="What is kept of a run: the states it passed through (`trajectory`); its clean latent and one "
        "noise to make them with again (`final-noise`); its clean latent alone, to which other noise is added, for "
        "repeats of the same text only (`final`); or whichever takes fewer bytes of the states and what the matching "
        "table found adequate (`auto`).",
    )
    ghost_similarity: float = Field(
        0.9, gt=0, le=1, description="Similarity from which an evicted entry counts as one that would have answered."
    )
    store_timeout_seconds: float = Field(
        0.5, gt=0, le=60, allow_inf_nan=False, description="Bound on a store operation that a request waits for."
    )
    store_queue: int = Field(256, ge=1, description="Cache writes that may wait behind answers; more are dropped.")
    ttl_seconds: float = Field(
        0.0,
        ge=0,
        le=10 * 365 * 86_400,
        allow_inf_nan=False,
        description="Age in seconds from which a remembered generation is never used and soon deleted; 0 = no bound.",
    )


class Records(Section):
    """Records of generations, jobs and their reports, pictures by URL."""

    title: ClassVar[str] = "Records, jobs, pictures by URL"

    record_seconds: float = Field(
        7 * 86_400.0,
        ge=0,
        le=10 * 365 * 86_400,
        allow_inf_nan=False,
        description="Age in seconds up to which it is kept how a picture came about, for `/v1/generations/{id}` and "
        "replays, but never longer than `TTL_SECONDS`, if set; 0 = not at all.",
    )
    records: int = Field(10_000, ge=0, description="Most of these records kept, about 2 KB each in Redis; 0 = none.")
    result_seconds: float = Field(
        86_400.0,
        ge=60,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="Age in seconds up to which jobs, pictures by URL and answers under an `Idempotency-Key` are "
        "kept, but never longer than `TTL_SECONDS`, if set.",
    )
    results: int = Field(1000, ge=1, description="Most of each of these kinds kept per tenant; the oldest go first.")
    result_bytes: int = Field(1024 * MIB, ge=0, description="Most bytes of them all.")
    webhook_hosts: Listed[str] = Field(
        (),
        description="Hosts that jobs may report their end to, separated by commas: `host` (ports 80 and 443), "
        "`host:port`, and networks (`10.0.0.0/8`) of private addresses to allow; none = no webhooks.",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Signs these reports: `whsec_` and base64 of 24 to 64 bytes; needed with `WEBHOOK_HOSTS`."
    )

    @field_validator("webhook_hosts")
    @classmethod
    def _check_hosts(cls, hosts: tuple[str, ...]) -> tuple[str, ...]:
        Targets(hosts)
        return hosts

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, secret: SecretStr | None, others: ValidationInfo) -> SecretStr | None:
        if secret is not None:
            secret_bytes(secret.get_secret_value())
        elif others.data.get("webhook_hosts"):
            raise ValueError("is needed with WEBHOOK_HOSTS")
        return secret
