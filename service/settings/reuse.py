"""What may be reused: head starts, their audit, features."""

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, field_validator

from policies.features.backends import BACKENDS
from policies.features.methods import METHODS
from service.settings.section import MIB, Folder, Listed, Section


class HeadStarts(Section):
    """Which states are kept, and who may resume from them."""

    title: ClassVar[str] = "Head starts"

    capture: Listed[float] = Field(
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

    @field_validator("capture")
    @classmethod
    def _check_shares(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.0 < share < 1.0 for share in shares):
            raise ValueError("every share must lie between 0 and 1, both excluded")
        if list(shares) != sorted(set(shares)):
            raise ValueError("shares must rise")
        return shares


class Audit(Section):
    """The shadow audit."""

    title: ClassVar[str] = "Shadow audit"

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


class Features(Section):
    """Feature caching."""

    title: ClassVar[str] = "Feature caching"

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
    feature_calibration: Folder | None = Field(
        None,
        description="Folder of what feature caching was calibrated to; unset = `features/` in the model's folder.",
    )
    resume_approximated: bool = Field(
        True, description="Whether a request may resume from the noise states of runs with feature caching."
    )

    @field_validator("feature_cache")
    @classmethod
    def _check_policy(cls, policy: str) -> str:
        known = policy in ("off", "auto") or policy in BACKENDS
        if not known and not all(name in METHODS for name in policy.split("+")):
            several = f'one or several, joined by "+", of {", ".join(METHODS)}'
            raise ValueError(f"must be off, auto, {several}, or one of {', '.join(BACKENDS)}")
        return policy
