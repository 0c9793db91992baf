"""The settings tree: one frozen object, filled from `HEADSTART_…` environment variables.

`load_settings` is the only way in: it refuses unknown variables and bad values with one clear line, so a
misspelt name can never be silently ignored.
"""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from policies.admission import POLICIES
from policies.features.backends import BACKENDS
from policies.features.methods import METHODS
from service.access.keyring import TENANT_PATTERN
from service.jobs.signing import secret_bytes
from service.jobs.targets import Targets
from service.judges.loading import shipped_judge

PREFIX = "HEADSTART_"
REPOSITORY = Path(__file__).resolve().parent.parent
DEFAULT_MODEL = REPOSITORY / "models" / "scenes-unet"
MIB = 1024**2
SECRET = ("webhook_secret", "traces_endpoint")
"""Settings whose values no message shows."""
OTHERS = "other"
"""The label of tenants that `metric_tenants` does not name."""
MOST_METRIC_TENANTS = 100
MOST_LORAS = 4
"""Per request."""


class SettingsError(Exception):
    """A setting is unknown or bad; the message is one clear line that names it."""


class Settings(BaseSettings):
    """Everything an operator may choose; every field is the variable `HEADSTART_` + its name in capitals."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="forbid", env_parse_none_str="none", validate_default=True
    )

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    model: str = Field(
        str(DEFAULT_MODEL),
        min_length=1,
        description="Folder of a diffusers pipeline, or a hub id. The default is the shipped `models/scenes-unet`.",
    )
    device: str = Field("auto", min_length=1, description="Torch device of the engine: `auto`, `cpu`, `cuda`, …")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="Number type of the network on the device."
    )
    quantise: Literal["none", "int8"] = Field(
        "none",
        description="`int8` keeps the denoiser's weights as 8-bit integers: less memory, not faster, slightly other "
        "pictures, no LoRAs.",
    )
    engine: Literal["process", "local"] = Field(
        "process",
        description="`process` runs the engine as a supervised child; `local` inside the server (debugging).",
    )
    lora_dir: Path | None = Field(
        None, description="Folder of LoRAs, `<name>.safetensors`, that requests may name; unset = none."
    )
    max_loras: int = Field(
        2 * MOST_LORAS,
        ge=MOST_LORAS,
        le=1024,
        description="Most LoRAs the engine holds loaded; the least recently used goes first.",
    )
    threads: int = Field(0, ge=0, le=1024, description="CPU threads of the engine; 0 lets torch choose.")
    max_batch: int = Field(8, ge=1, le=1024, description="Most requests that advance in one joint batch.")
    max_pixels: int = Field(
        0,
        ge=0,
        description="Most pixels a joint batch works on, a picture's counted twice with classifier-free guidance; "
        "0 = `MAX_BATCH` guided pictures of the model's default size. A picture larger than that runs alone.",
    )
    batch_invariant: bool = Field(
        False,
        description="Draw every picture as if alone: its rows go through the networks on their own within the joint "
        "steps, so that a replay is the same bit for bit; else one drawn among others may differ by 1 of 255 levels. "
        "Costs throughput where many are in work.",
    )
    compile: bool = Field(
        False,
        description="Run the denoiser through torch.compile: first steps of a size or LoRA set slow, then faster.",
    )
    tiled_decode_side: int = Field(
        1536,
        ge=64,
        description="Pictures with a longer side, in pixels, are decoded in tiles, which takes less memory.",
    )
    deadline_seconds: float = Field(
        600.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="Time a picture may take, waiting included; then it is given up (504). A request may set less.",
    )
    data_dir: Path = Field(
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
    webhook_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Hosts that jobs may report their end to, separated by commas: `host` (ports 80 and 443), "
        "`host:port`, and networks (`10.0.0.0/8`) of private addresses to allow; none = no webhooks.",
    )
    webhook_secret: SecretStr | None = Field(
        None, description="Signs these reports: `whsec_` and base64 of 24 to 64 bytes; needed with `WEBHOOK_HOSTS`."
    )
    capture: Annotated[tuple[float, ...], NoDecode] = Field(
        (0.1, 0.2, 0.3, 0.4, 0.5),
        description="Shares of a run's steps at which its noise state is kept, separated by commas.",
    )
    max_depth: int = Field(3, ge=0, le=100, description="Longest chain of resumes whose states are still kept.")
    matching: Literal["calibrated", "paper", "off"] = Field(
        "calibrated",
        description="`calibrated` uses the profiled table behind the divergence gate, `paper` Nirvana's CLIP "
        "table without a gate, `off` exact repeats only.",
    )
    matching_table: Path | None = Field(
        None,
        description="Table of the `calibrated` matching; unset = `matching.json` in the model's folder.",
    )
    candidates: int = Field(8, ge=1, le=256, description="Neighbours looked at per request.")
    judge: str | None = Field(
        None,
        max_length=300,
        description="Judge of the shadow audit and of heat maps: `clip:MODEL`, or `module:function` of one's own; "
        "unset = the one that `headstart.json` in the model's folder names, if any; empty = neither.",
    )
    audit_share: float = Field(
        0.02,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="Share of approximate hits that are drawn again in full, in idle time, and judged; 0 = none: "
        "what earlier audits tightened stays so.",
    )
    audit_bound: float = Field(
        0.05,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description="Largest share of bad hits less good ones; where audits show it to be broken, divergence bounds "
        "are tightened.",
    )
    audit_frozen: bool = Field(False, description="Audits measure only: tightened bounds stay where they are.")
    feature_cache: str = Field(
        "off",
        description="What requests that do not say get of feature caching: `off`, `auto` (the fastest calibrated "
        'choice that holds the quality bound), or a policy\'s name, several joined by "+".',
    )
    feature_strength: float = Field(
        0.5,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="How much a named policy reuses: near 0 least, 1 most.",
    )
    feature_min_quality: float = Field(
        0.99,
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Quality bound of `auto`, as a share of the quality without feature caching.",
    )
    feature_bytes: int = Field(
        1024 * MIB, ge=0, description="Most bytes feature caching remembers for all pictures in work together."
    )
    feature_calibration: Path | None = Field(
        None,
        description="Folder of what feature caching was calibrated to; unset = `features/` in the model's folder.",
    )
    resume_approximated: bool = Field(
        True, description="Whether a request may resume from the noise states of runs with feature caching."
    )
    tenant: str = Field(
        "default", pattern=TENANT_PATTERN, description="Tenant of all requests as long as there is no API key."
    )
    keys_file: Path | None = Field(
        None,
        description="File of the API keys, made by `headstart keys`; unset = `keys.json` in the data folder. Several "
        "instances may share it.",
    )
    allow_anonymous: bool = Field(
        False,
        description="Listen beyond loopback although there is no API key: whoever reaches the service may use it.",
    )
    open_metrics: bool = Field(
        False,
        description="Answer `/metrics` without a key; else an operator's is needed, once there are keys. Its figures "
        "are sums over all tenants.",
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
    encryption_key_file: Path | None = Field(
        None,
        description="File with 64 hex digits: states and pictures are then encrypted (AES-256-GCM); those written "
        "without, or with another key, are absent.",
    )
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
    max_prompt_chars: int = Field(4000, ge=1, le=100_000, description="Longest prompt accepted, in characters.")
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, allow_inf_nan=False, description="Time running requests get to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line kept.")
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
    metric_tenants: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Tenants, separated by commas, whose pictures and device seconds `/metrics` counts by name, all "
        "others as `other`; none = no metric names a tenant. Not with `OPEN_METRICS`.",
    )
    traces_endpoint: str | None = Field(
        None,
        description="OpenTelemetry collector that traces go to by OTLP over HTTP, `http://host:4318`; unset = as "
        "`OTEL_EXPORTER_OTLP_ENDPOINT` says, and without that none are made. Needs the extra `otel`.",
    )
    log_prompts: bool = Field(False, description="Write prompts to the log (off: they are private).")

    @field_validator("capture", "webhook_hosts", "metric_tenants", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("capture")
    @classmethod
    def _check_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.0 < share < 1.0 for share in shares):
            raise ValueError("every share must lie between 0 and 1, both excluded")
        if list(shares) != sorted(set(shares)):
            raise ValueError("shares must rise")
        return shares

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

    @field_validator("feature_cache")
    @classmethod
    def _check_policy(cls, policy: str) -> str:
        known = policy in ("off", "auto") or policy in BACKENDS
        if not known and not all(name in METHODS for name in policy.split("+")):
            several = f'one or several, joined by "+", of {", ".join(METHODS)}'
            raise ValueError(f"must be off, auto, {several}, or one of {', '.join(BACKENDS)}")
        return policy

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

    @field_validator("quantise", mode="before")
    @classmethod
    def _none_by_name(cls, value: object) -> object:
        # "none" is how the environment unsets other settings.
        return "none" if value is None else value

    @field_validator("data_dir", "lora_dir", "feature_calibration", "keys_file", "encryption_key_file")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else path.expanduser().absolute()

    @field_validator("lora_dir", "feature_calibration")
    @classmethod
    def _check_folder(cls, path: Path | None) -> Path | None:
        if path is not None and not path.is_dir():
            raise ValueError("there is no such folder")
        return path

    @property
    def table_path(self) -> Path | None:
        """Where the matching table is expected; None for a hub id without one of its own."""
        if self.matching_table is not None:
            return self.matching_table
        folder = Path(self.model)
        return folder / "matching.json" if folder.is_dir() else None

    @property
    def keys_path(self) -> Path:
        """Where the API keys are."""
        return self.keys_file or self.data_dir / "keys.json"

    @property
    def judge_name(self) -> str:
        """The judge of the shadow audit; "" = none."""
        return (shipped_judge(self.model) or "") if self.judge is None else self.judge

    @property
    def features_path(self) -> Path | None:
        """Folder of what feature caching was calibrated to; None where there is none."""
        folder = self.feature_calibration or Path(self.model) / "features"
        return folder if folder.is_dir() else None


def load_settings(**overrides: Any) -> Settings:
    """Read the environment; values given as keywords (the command line) win over it, None means not given.

    Raises:
        SettingsError: an unknown `HEADSTART_…` variable or a bad value, named in one line.
    """
    for variable in os.environ:
        if variable.upper().startswith(PREFIX):
            _check_known(variable)
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise SettingsError(_one_line(error)) from None


def _check_known(variable: str) -> None:
    if variable[len(PREFIX) :].lower() not in Settings.model_fields:
        raise SettingsError(f"unknown setting {variable}; `headstart settings` lists the known ones")


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "settings"
    message = " ".join(str(first["msg"]).split())
    given = "" if name in SECRET else f"={first['input']!r}"
    return f"bad setting {PREFIX}{name.upper()}{given}: {message}"
