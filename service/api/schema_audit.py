"""The wire format of the shadow audit."""

from pydantic import BaseModel, ConfigDict, Field


class AuditBandBody(BaseModel):
    """The latest audited hits of one band."""

    similarity: str
    skip: str
    hits: int
    bad: int = Field(description="Worse than the full run by more than the judge's loss.")
    good: int = Field(description="Better by as much.")
    bad_hit_rate: float
    lower: float = Field(description="Of the 95 % interval of the rate.")
    upper: float


class AuditBody(BaseModel):
    """What the shadow audit has found, and what it has done about it."""

    enabled: bool = Field(description="False: there is no judge, or no table of bounds to audit.")
    reason: str | None = Field(default=None, description="Why nothing is audited, or not any more.")
    judge: str = ""
    share: float = 0.0
    bound: float | None = None
    frozen: bool = False
    queued: int = 0
    factors: dict[str, float] = Field(
        default_factory=dict,
        description="What the table's divergence bounds are multiplied by, per level; `all`: of all levels together, "
        "`same-text`: of repeats. 0 = closed.",
    )
    evidence: dict[str, float] = Field(
        default_factory=dict, description="Per level, ln of the evidence that the bound is broken."
    )
    bands: list[AuditBandBody] = Field(default_factory=list)


class AuditOrder(BaseModel):
    """What the shadow audit is told to do."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    frozen: bool | None = Field(default=None, description="True: measure only, until told otherwise or restarted.")
    reset: bool = Field(default=False, description="Forget every audited hit and go back to the table's bounds.")
