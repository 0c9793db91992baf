"""What clients send and get of jobs."""

from typing import Any, Literal

from pydantic import BaseModel, Field

from service.api.schema import (
    MAX_WATCHED_PREVIEWS,
    CacheSummary,
    ErrorDetail,
    FeatureSummary,
    Format,
    GenerationBody,
    LoraUsed,
    Page,
    PictureBody,
    Strict,
    Text,
)
from service.jobs.state import JobStatus
from service.jobs.targets import MOST_URL


class WebhookBody(Strict):
    """Where the end of a job is reported."""

    url: Text = Field(max_length=MOST_URL, description="http or https; its host must be one the service allows.")


class JobRequest(GenerationBody):
    """A generation request that is answered later."""

    stream: bool | None = Field(default=None, description="Only false: `GET /v1/jobs/{id}/events` streams.")
    partial_images: int | None = Field(
        default=None, ge=0, le=MAX_WATCHED_PREVIEWS, description="Most previews of each picture (default 0)."
    )
    response_format: Literal["b64_json", "url"] | None = Field(
        default=None, description="How the finished job carries its pictures; default `url`."
    )
    webhook: WebhookBody | None = Field(default=None, description="Where the end of the job is reported.")


class ProgressBody(BaseModel):
    """How far one picture of a job is."""

    step: int = Field(description="Steps done, skipped ones included.")
    steps: int
    first_step: int = Field(description="K, steps skipped.")


class JobResult(BaseModel):
    """The answer to the generation request; no source has its prompt here."""

    created: int
    data: list[PictureBody]
    background: Literal["opaque"] = "opaque"
    output_format: Format
    size: str
    lora: list[LoraUsed]
    cache: CacheSummary
    feature_cache: FeatureSummary


class JobBody(BaseModel):
    """A job."""

    id: str
    object: Literal["job"] = "job"
    status: JobStatus = Field(description="`succeeded`, `failed` and `cancelled` are final.")
    version: int = Field(description="Rises with every change; the id of events.")
    created: float
    started: float | None
    finished: float | None
    expires: float = Field(description="Until when it is kept, in Unix seconds.")
    queue_position: int | None = Field(description="1 is next; null once it has begun.")
    progress: list[ProgressBody] = Field(description="Of each picture.")
    result: JobResult | None = Field(description="Of a job that succeeded; lists of jobs leave it out.")
    error: ErrorDetail | None = Field(description="Of a job that failed; `interrupted`: the service was stopped.")


class JobList(Page):
    """Jobs, newest first."""

    data: list[JobBody]


class JobDeleted(BaseModel):
    """A job that is no more."""

    id: str
    object: Literal["job.deleted"] = "job.deleted"
    deleted: Literal[True] = True


class PreviewBody(BaseModel):
    """A picture in progress, as PNG."""

    picture: int = Field(description="Which of the job's, from 0.")
    step: int
    b64_json: str


JobDocument = dict[str, Any]
"""A `JobResult` as it is kept: pictures without their bytes."""
