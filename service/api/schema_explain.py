"""What a dry run tells."""

from typing import Literal

from pydantic import BaseModel, Field


class HeldState(BaseModel):
    """A noise state that a candidate holds."""

    skip: float = Field(description="Share of its run's steps before it.")
    log_snr: float
    approximated: bool = Field(description="Whether feature caching had a part in it.")
    form: Literal["trajectory", "final"]
    has_prediction: bool = Field(description="Without one the gate cannot judge another prompt at it.")


class CandidateBody(BaseModel):
    """A remembered generation near the prompt."""

    id: str
    generation: str | None = Field(
        description="Its answer, while there is a record: `GET /v1/generations/{generation}/heatmap?text=…` shows "
        "which part of its picture speaks for a prompt."
    )
    similarity: float
    prompt: str | None
    vetoed: bool
    veto_reasons: list[str] = Field(description="Why it may not be resumed from, however similar.")
    reason: str = Field(description="What the matching would say if it were the only one: `match`, or why not.")
    states: list[HeldState]


class ExpectedBody(BaseModel):
    """What one outcome of an attempt comes to."""

    skip: float = Field(description="Share of the source's steps before the state entered.")
    max_divergence: float | None = Field(description="Largest divergence with which it is entered; null: any.")
    skipped_steps: int
    wasted_steps: int
    saved_share: float = Field(description="Steps saved, wasted ones subtracted, of all.")
    saved_gpu_seconds: float | None = Field(description="At the time steps took so far; null before the first.")


class AttemptBody(BaseModel):
    """One state to be tried, and where the divergence found there may lead."""

    id: str = Field(description="Of the candidate.")
    similarity: float
    judged_at: float = Field(description="`skip` of the state the gate judges at.")
    outcomes: list[ExpectedBody] = Field(description="Deepest first: the first whose bound holds is taken.")


class ExplainAnswer(BaseModel):
    """How a request would be answered now."""

    object: Literal["cache.explanation"] = "cache.explanation"
    verdict: Literal["EXACT", "APPROX", "MISS", "BYPASS", "REFRESH"] = Field(
        description="Foreseen: the gate may still refuse, and a state may prove unreadable."
    )
    reason: str
    steps: int
    similarity: float | None = Field(description="Of the nearest candidate.")
    exact_entry: str | None = Field(description="`EXACT`: the entry whose picture would be returned.")
    candidates: list[CandidateBody] = Field(description="Nearest first; none where none would be looked for.")
    attempts: list[AttemptBody] = Field(description="In the order they would be tried.")
