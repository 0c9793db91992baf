"""The wire format: what clients send (strictly checked) and what they get."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from service.engine.base import Entry
from service.engine.lora import NAME
from service.settings.engine import MOST_LORAS


def _unicode(text: str) -> str:
    # JSON can spell half a surrogate pair; no encoder, tokenizer or hash can take it.
    if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PydanticCustomError("string_unicode", "not valid Unicode text")
    return text


Text = Annotated[str, AfterValidator(_unicode)]
Ratio = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)]

Quality = Literal["standard", "hd", "low", "medium", "high", "auto"]
StreamedQuality = Literal["low", "medium", "high", "auto"]
Format = Literal["png", "jpeg", "webp"]

MAX_PICTURES = 10
MAX_PARTIAL_IMAGES = 3
MAX_WATCHED_PREVIEWS = 10
MAX_STEPS = 200
MAX_GUIDANCE = 30.0
MAX_LORA_SCALE = 4.0
MAX_SEED = 2**63 - 1
MAX_DEADLINE = 86_400.0
MAX_POLICY = 200


class Strict(BaseModel):
    """What clients send: no unknown field, no type that is only nearly right."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class CacheBody(Strict):
    """What the client allows the cache to do."""

    mode: Literal["auto", "exact", "approximate", "off"] | None = Field(
        default=None,
        description="`auto` (default): `exact` with a seed, else `approximate`; `off`: neither read nor write.",
    )
    min_similarity: Ratio | None = Field(default=None, description="Floor on the cosine similarity of a neighbour.")
    max_skip_ratio: Ratio | None = Field(default=None, description="Ceiling on skipped steps ÷ steps.")
    store: bool | None = Field(default=None, description="Whether this run may be remembered (default true).")
    scope: Literal["user", "tenant", "public"] | None = Field(
        default=None,
        description="Whose generations may be resumed from, and who may resume from this one: `user` (that of the "
        "field `user`), `tenant` (default), or `public`: every tenant that shares, as far as the key allows.",
    )
    diversity: Ratio | None = Field(
        default=None,
        description="How much of a head start's noise to exchange for the seed's own (default 0): other seeds, other "
        "pictures. Costs one step; plays no part in full runs and exact hits.",
    )


class FeatureCacheBody(Strict):
    """What to reuse inside the network from step to step."""

    policy: Text = Field(
        max_length=MAX_POLICY,
        description='`off`, `auto`, or one of the model\'s `feature_policies`, or several joined by "+".',
    )
    strength: Share | None = Field(
        default=None,
        description="Of named policies: from conservative to 1, fast. Default: the service's, 0.5 unless set.",
    )
    min_quality: Share | None = Field(
        default=None,
        description="Quality bound of `auto`, as a share of the quality without. Default: the service's, 0.99.",
    )


def _spelled_out(value: object) -> object:
    if isinstance(value, str):
        return {"policy": value}
    if not isinstance(value, dict | FeatureCacheBody):
        raise PydanticCustomError("feature_cache_type", "must be the name of a policy, or an object")
    return value


FeatureCache = Annotated[
    FeatureCacheBody, BeforeValidator(_spelled_out, json_schema_input_type=str | FeatureCacheBody)
]
"""A policy's name alone is short for the object."""


class LoraBody(Strict):
    """A LoRA to draw with."""

    name: str = Field(
        pattern=f"^{NAME.pattern}$", description="Of a file in the service's folder, without its suffix."
    )
    scale: float = Field(
        default=1.0,
        ge=-MAX_LORA_SCALE,
        le=MAX_LORA_SCALE,
        allow_inf_nan=False,
        description="How strong (default 1); 0 is none.",
    )


class GenerationBody(Strict):
    """OpenAI's image generation request, with strict extras."""

    prompt: Text = Field(min_length=1, description="What to draw.")
    model: Text | None = Field(default=None, description="The served model's id, or nothing.")
    n: int | None = Field(default=None, ge=1, le=MAX_PICTURES, description="How many pictures (default 1).")
    size: Text | None = Field(default=None, description="`WIDTHxHEIGHT` in pixels, or `auto`.")
    output_format: Format | None = Field(default=None, description="Default `png`.")
    output_compression: int | None = Field(default=None, ge=0, le=100, description="Quality of JPEG and WebP.")
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None,
        description="`b64_json` (default), or `url`: where the picture is, for a while. Not for streams.",
    )
    stream: bool | None = Field(default=None, description="True: answer with server-sent events (one picture).")
    partial_images: int | None = Field(
        default=None, ge=0, le=MAX_PARTIAL_IMAGES, description="Most previews of a stream (default 0)."
    )
    quality: Quality | None = Field(default=None, description="Ignored.")
    style: Literal["vivid", "natural"] | None = Field(default=None, description="Ignored.")
    background: Literal["opaque", "auto"] | None = Field(default=None, description="Pictures are always opaque.")
    moderation: Literal["low", "auto"] | None = Field(default=None, description="Ignored.")
    user: Text | None = Field(
        default=None,
        max_length=512,
        description="Whom it is for; kept as a digest, so that what is remembered of it can be deleted by user. "
        "Draws nothing differently.",
    )
    seed: int | None = Field(
        default=None,
        ge=0,
        le=MAX_SEED,
        description="Of the noise; picture i of n gets seed + i. Absent: random.",
    )
    num_inference_steps: int | None = Field(default=None, ge=1, le=MAX_STEPS, description="Denoising steps.")
    guidance_scale: float | None = Field(
        default=None, ge=0.0, le=MAX_GUIDANCE, allow_inf_nan=False, description="Classifier-free guidance; 1 is none."
    )
    negative_prompt: Text | None = Field(default=None, description="What not to draw.")
    scheduler: Text | None = Field(default=None, description="One of the model's solvers.")
    deadline_seconds: float | None = Field(
        default=None,
        gt=0.0,
        le=MAX_DEADLINE,
        allow_inf_nan=False,
        description="Give up (504) what is not finished after so long; the service has a bound, too.",
    )
    lora: list[LoraBody] | None = Field(
        default=None, max_length=MOST_LORAS, description="LoRAs to draw with; their order plays no part."
    )
    feature_cache: FeatureCache | None = Field(
        default=None, description="What to reuse inside the network from step to step; absent: as the service is set."
    )
    cache: CacheBody | None = Field(default=None, description="Wishes towards the cache.")


class WatchBody(GenerationBody):
    """The same request to the route that always streams, and tells more on the way."""

    stream: bool | None = Field(default=None, description="Only false: this route has events of its own.")
    partial_images: int | None = Field(
        default=None, ge=0, le=MAX_WATCHED_PREVIEWS, description="Most previews on the way (default 6)."
    )


class SourceBody(BaseModel):
    """The entry a picture was resumed from or returned from."""

    id: str
    prompt: str | None


class VerdictBody(BaseModel):
    """What the cache did for one picture."""

    verdict: Literal["EXACT", "APPROX", "MISS", "BYPASS", "REFRESH"]
    reason: str
    steps: int
    skipped_steps: int
    wasted_steps: int
    evaluations: int = Field(description="Network evaluations run; some solvers take two per step.")
    entry: Entry | None = Field(description="How the solver took up the stored state; only with `APPROX`.")
    similarity: float | None
    divergence: float | None
    source: SourceBody | None
    saved_gpu_seconds: float
    seed_exact: bool
    stored: bool
    hidden: bool = Field(
        description="Whether other tenants' generations were searched: then only verdict and steps are told, and "
        "what counts steps or evaluations is 0."
    )
    diversity: float = Field(description="How much of the head start's noise was exchanged; 0: none.")


class FeatureVerdictBody(BaseModel):
    """What feature caching did for one picture."""

    policy: str = Field(description="As run, or that of the stored picture; `off` where nothing was to be reused.")
    strength: float | None
    requested: str
    computed: int = Field(description="Network evaluations in which everything was computed.")
    reused: int = Field(description="Network evaluations in which something was reused.")
    compute_share: float | None = Field(description="Multiplications executed, of those without feature caching.")
    reason: str | None = Field(description="Why nothing was cached although it was asked for.")


class LoraUsed(BaseModel):
    """A LoRA that was drawn with: `digest` is the SHA-256 of its file."""

    name: str
    scale: float
    digest: str


class PictureBody(BaseModel):
    """One picture."""

    id: str = Field(description="Of this generation: `GET /v1/generations/{id}` tells how it came about.")
    b64_json: str | None = Field(description="The picture, unless its URL was asked for.")
    url: str | None = Field(default=None, description="Where it is, if that was asked for.")
    revised_prompt: None = None
    seed: int
    cache: VerdictBody
    feature_cache: FeatureVerdictBody


class CacheSummary(BaseModel):
    """Sums over the pictures of one answer."""

    verdicts: dict[str, int]
    steps: int
    skipped_steps: int
    wasted_steps: int
    saved_gpu_seconds: float


class FeatureSummary(BaseModel):
    """Sums over the pictures of one answer."""

    policies: dict[str, int]
    computed: int
    reused: int


class GenerationAnswer(BaseModel):
    """OpenAI's images response, with the cache's part."""

    created: int
    data: list[PictureBody]
    background: Literal["opaque"] = "opaque"
    output_format: Format
    size: str
    lora: list[LoraUsed]
    cache: CacheSummary
    feature_cache: FeatureSummary


class CompletedEvent(PictureBody):
    """The last event of a watched picture: the picture and how it was encoded."""

    created: int
    output_format: Format
    size: str
    lora: list[LoraUsed]


class TimingsBody(BaseModel):
    """Where the seconds of one picture went: device time of its steps and its decoding, the rest by the clock."""

    queue_seconds: float
    denoise_seconds: float
    decode_seconds: float
    total_seconds: float


class _Whole(BaseModel):
    # What has a default is sent all the same, and clients tell events apart by such a field.
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)


class UsageDetails(_Whole):
    """Tokens by kind: none, see `UsageBody`."""

    image_tokens: int = 0
    text_tokens: int = 0


class UsageBody(_Whole):
    """OpenAI's token counts, all 0: nothing is metered here."""

    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    input_tokens_details: UsageDetails = UsageDetails()


class _ImageEvent(_Whole):
    b64_json: str
    created_at: int
    size: str
    quality: StreamedQuality
    background: Literal["opaque"] = "opaque"
    output_format: Format
    seed: int


class ImagePartialEvent(_ImageEvent):
    """OpenAI's event of a picture in progress, and the seed."""

    type: Literal["image_generation.partial_image"] = "image_generation.partial_image"
    partial_image_index: int


class ImageCompletedEvent(_ImageEvent):
    """OpenAI's last event of a stream, and what the cache did."""

    type: Literal["image_generation.completed"] = "image_generation.completed"
    id: str
    usage: UsageBody = UsageBody()
    lora: list[LoraUsed]
    cache: VerdictBody
    feature_cache: FeatureVerdictBody
    timings: TimingsBody


ImageEvent = Annotated[ImagePartialEvent | ImageCompletedEvent, Field(discriminator="type")]


class ErrorDetail(BaseModel):
    """What went wrong, in OpenAI's words."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's error envelope."""

    error: ErrorDetail


class ProblemBody(BaseModel):
    """The same as `application/problem+json` (RFC 9457), where `Accept` prefers that."""

    type: str = Field(description="A URN that ends in `code`.")
    title: str
    status: int
    detail: str
    instance: str = Field(description="A URN that ends in the request's id.")
    code: str | None
    param: str | None


class ModelBody(BaseModel):
    """One served model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    default_steps: int
    default_guidance: float
    default_size: str
    solvers: list[str]
    feature_policies: list[str]


class ModelList(BaseModel):
    """All served models."""

    object: Literal["list"] = "list"
    data: list[ModelBody]


class EntryBody(BaseModel):
    """A remembered generation."""

    id: str
    prompt: str | None
    created: float
    seed: int
    steps: int
    depth: int
    states: list[float]
    expires: float | None = Field(description="When it will be past its time; null without a lifetime.")
    approximated_states: list[float] = Field(description="Those of `states` that feature caching had a part in.")
    uses: int = Field(description="Of a public entry: its own tenant's.")
    has_image: bool
    public: bool = Field(description="Whether other tenants may come to resume from it.")


class Page(BaseModel):
    """Part of a list, and where to go on."""

    object: Literal["list"] = "list"
    has_more: bool
    next_cursor: str | None = Field(description="What `cursor` of the next page is; null on the last.")


class EntryList(Page):
    """Remembered generations, newest first; a page may hold fewer than asked for and still not be the last."""

    data: list[EntryBody]


class EntryDeleted(BaseModel):
    """A remembered generation that is no more."""

    id: str
    object: Literal["cache.entry.deleted"] = "cache.entry.deleted"
    deleted: Literal[True] = True


class PictureDeleted(BaseModel):
    """A picture whose URL leads nowhere any more."""

    id: str
    object: Literal["image.deleted"] = "image.deleted"
    deleted: Literal[True] = True


class EntriesDeleted(BaseModel):
    """How many remembered generations were deleted."""

    object: Literal["cache.entries.deleted"] = "cache.entries.deleted"
    deleted: int


class DeletionQuery(BaseModel):
    """Which remembered generations to delete: those that meet every criterion given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    user: Text | None = Field(default=None, min_length=1, max_length=512, description="Drawn for this `user`.")
    before: Text | None = Field(
        default=None,
        max_length=64,
        description="Stored earlier: Unix seconds or ISO 8601 (UTC unless given).",
    )
    after: Text | None = Field(default=None, max_length=64, description="Stored at this time or later.")
    all: bool = Field(default=False, description="True: everything; only without other criteria.")


class EntryQuery(BaseModel):
    """Which remembered generations to list: those that meet every criterion given."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    limit: int = Field(default=24, ge=1, le=200, description="Most entries of a page.")
    cursor: Text = Field(default="", max_length=100, description="`next_cursor` of the page before.")
    user: Text | None = Field(default=None, min_length=1, max_length=512, description="Drawn for this `user`.")
    before: Text | None = Field(
        default=None,
        max_length=64,
        description="Stored earlier: Unix seconds or ISO 8601 (UTC unless given).",
    )
    after: Text | None = Field(default=None, max_length=64, description="Stored at this time or later.")
    prompt: Text | None = Field(
        default=None, min_length=1, max_length=200, description="Stands in the prompt, whatever the case."
    )


class ReadyBody(BaseModel):
    """Whether it can draw; the cache is not needed for that.

    `safety` is the checker: `off` there is none, `busy` it is behind, `unavailable` it hangs.
    """

    status: Literal["ok", "unavailable"]
    engine: Literal["ok", "unavailable"]
    cache: Literal["ok", "unavailable"]
    safety: Literal["off", "ok", "busy", "unavailable"]


class VersionBody(BaseModel):
    """What runs here."""

    version: str
    api: Literal["v1"] = "v1"
    model: str
    weights_digest: str
    embedder_digest: str


class StatsBody(BaseModel):
    """Running totals since the start, and what the cache holds."""

    model: str
    default_steps: int
    default_guidance: float
    uptime_seconds: float
    requests: int
    verdicts: dict[str, int]
    steps_total: int
    skipped_steps: int
    wasted_steps: int
    saved_gpu_seconds: float
    saved_feature_seconds: float
    gpu_seconds: float = Field(
        description="Device seconds of pictures, of those too that were given up; replays and audits are no part of "
        "it. A tenant's own leave out pictures for which other tenants' generations were searched (`cache.scope: "
        "public`), since they would tell what was found."
    )
    cache: dict[str, Any]
    engine: dict[str, Any]
