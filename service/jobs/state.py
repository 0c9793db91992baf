"""What is known of a job, as it is kept and shown. It holds no prompt: neither the request's nor the source's."""

from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict


class JobStatus(StrEnum):
    """Where a job is; the last three are final."""

    QUEUED = "queued"
    IN_PROGRESS = "in_progress"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether nothing will change any more."""
        return self in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


class JobError(BaseModel):
    """Why a job failed, in the words of the error envelope."""

    model_config = ConfigDict(frozen=True)

    message: str
    type: str
    param: str | None = None
    code: str | None = None


INTERRUPTED = JobError(
    message="the service stopped before the job was finished; send it again",
    type="server_error",
    code="interrupted",
)
"""Of jobs that a stop or a crash of the service cut off.

They are not run again from their request: it would have to be kept, prompt and all, even of those who asked that
nothing be remembered; its deadline counts from when it was sent; and a request that kills the service would do so
again.
"""


class PictureProgress(BaseModel):
    """How far one picture is: `step` of `steps`, skipped ones included; K = `first_step` were skipped."""

    model_config = ConfigDict(frozen=True)

    step: int = 0
    steps: int
    first_step: int = 0


class JobState(BaseModel):
    """One job.

    Attributes:
        id: its id, 32 hexadecimal digits.
        version: rises with every change.
        status: where it is.
        created: Unix seconds.
        started: when its first picture took a step, or was found whole.
        finished: when it became final.
        queue_position: pictures up to and including its first in the line; None once that has begun.
        progress: of each picture.
        pictures: their ids; what was deposited under them goes with the job, however it ended.
        result: the answer, without the pictures' bytes and without any prompt; only once it has succeeded.
        error: only once it has failed.
        inline: whether the answer shall carry the pictures themselves rather than their URLs.
        webhook: where its end is reported, if anywhere.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    version: int = 1
    status: JobStatus = JobStatus.QUEUED
    created: float
    started: float | None = None
    finished: float | None = None
    queue_position: int | None = None
    progress: tuple[PictureProgress, ...]
    pictures: tuple[str, ...] = ()
    result: dict[str, Any] | None = None
    error: JobError | None = None
    inline: bool = False
    webhook: str | None = None
