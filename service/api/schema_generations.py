"""What clients get of a generation after its answer: its record, and the picture again."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.api.schema import LoraUsed, Page, Text


class ReplayBody(BaseModel):
    """The texts of a generation that was not to be remembered."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    prompt: Text | None = Field(default=None, description="Only where the record holds none: the same text again.")
    negative_prompt: Text | None = Field(default=None, description="Likewise; absent: empty.")
    image: str | None = Field(
        default=None, description="Of an edit or a variation: the picture it was drawn over again, in base64."
    )
    mask: str | None = Field(default=None, description="Likewise its mask, if it had one.")


class StateBody(BaseModel):
    """A noise state that a run was judged at or resumed from."""

    entry: str = Field(description="Whose state it is.")
    generation: str | None = Field(description="The generation that left it; null once its record is gone.")
    skip: float = Field(description="Share of its run's steps before it.")
    log_snr: float
    depth: int = Field(description="How many resumes lie between it and pure noise.")
    approximated: bool
    form: Literal["trajectory", "final"]
    max_divergence: float | None = Field(description="The gate's bound for it; null: none.")
    sha256: str = Field(description="Of its float16 latent.")


class GenerationRequestBody(BaseModel):
    """A request as it was resolved."""

    prompt: str | None = Field(description="Null where the run was not to be remembered.")
    negative_prompt: str | None
    prompt_sha256: str
    negative_prompt_sha256: str
    seed: int
    num_inference_steps: int
    scheduler: str
    guidance_scale: float
    size: str
    lora: list[LoraUsed]


class FeaturesRunBody(BaseModel):
    """The feature caching that ran."""

    policy: str
    strength: float
    resume_warmup: int


class ReferenceBody(BaseModel):
    """The picture an edit or a variation was drawn over; it is not kept."""

    sha256: str = Field(description="Of its pixels as they were fitted to the size, and of its mask.")
    strength: float
    first_step: int = Field(description="The step of N it was entered at.")
    masked: bool = Field(description="Whether part of it was kept.")


class SourceRunBody(BaseModel):
    """One resume on the way back to pure noise."""

    generation: str | None
    entry: str
    seed: int | None = Field(description="Of that run's noise; null once its record is gone.")
    skip: float


class GenerationBodyRecord(BaseModel):
    """How a picture came about."""

    id: str
    object: Literal["generation"] = "generation"
    created: float
    entry: str | None = Field(description="What the run is remembered as; null: not, or not yet.")
    request: GenerationRequestBody
    verdict: Literal["EXACT", "APPROX", "MISS", "BYPASS", "REFRESH"]
    reason: str
    skipped_steps: int
    wasted_steps: int
    similarity: float | None
    divergence: float | None
    repeats: str | None = Field(description="`EXACT`: the entry whose picture was returned.")
    source_seed: int | None = Field(description="Seed of the run resumed from or repeated.")
    judged: StateBody | None = Field(description="The state the gate judged at, where another was entered.")
    entered: StateBody | None = Field(description="The state the run was resumed from; null: pure noise.")
    diversity: float = Field(description="How much of that state's noise was exchanged for the seed's.")
    reference: ReferenceBody | None = Field(description="The picture it was drawn over; null: none.")
    lineage: list[SourceRunBody] = Field(description="The runs it descends from, nearest first.")
    feature_cache: FeaturesRunBody | None
    capture: list[float] = Field(description="Shares of the steps at which the latent was rounded to float16.")
    batch_invariant: bool = Field(
        description="Whether it was drawn as if alone, so that a replay is the same bit for bit."
    )
    versions: dict[str, str]
    sha256: str = Field(description="Of the decoded pixels: RGB, 8 bits, row by row.")


class DescendantBody(BaseModel):
    """A generation that an entry gave a head start, or whose picture was returned again."""

    id: str
    created: float
    verdict: Literal["EXACT", "APPROX", "MISS", "BYPASS", "REFRESH"]
    prompt: str | None = Field(description="Null where the run was not to be remembered.")
    entry: str | None = Field(description="What it is remembered as itself; null: not, or not yet.")
    seed: int
    steps: int = Field(description="Without a head start: N, or of an edit those from where its picture is entered.")
    skipped_steps: int
    wasted_steps: int
    similarity: float | None


class DescendantList(Page):
    """What came from an entry, newest first, as far as there are records; a page may hold fewer than asked for."""

    data: list[DescendantBody]


class ReplayAnswer(BaseModel):
    """A picture drawn again."""

    id: str
    object: Literal["generation.replay"] = "generation.replay"
    b64_json: str = Field(description="PNG.")
    identical: bool = Field(description="Whether every pixel is the one answered before.")
    max_difference: int | None = Field(
        description="Largest difference of a level, 0 to 255; null where they differ and the first is not kept."
    )
    sha256: str = Field(description="Of the pixels drawn now.")
    recorded_sha256: str
    runs: int = Field(description="Runs it took: more than 1 where a source's state was gone.")
    differing_versions: list[str] = Field(description="What of `versions` is no longer the same.")
