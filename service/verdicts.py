"""From a plan and what the engine made of it to the verdict told to the client and the metrics."""

import math

from service.engine.base import JobResult
from service.types import Plan, Verdict, VerdictKind


def exact_verdict(plan: Plan, step_seconds: float) -> Verdict:
    """Return the verdict of a stored picture; `step_seconds` is the usual device time of one step."""
    steps = plan.request.steps
    return Verdict(
        kind=VerdictKind.EXACT,
        reason=plan.reason,
        steps=steps,
        skipped=steps,
        similarity=plan.similarity,
        source_id=plan.source.entry_id if plan.source else None,
        source_prompt=plan.source.prompt if plan.source else None,
        saved_gpu_seconds=steps * step_seconds,
    )


def run_verdict(plan: Plan, result: JobResult) -> Verdict:
    """Return the verdict of a run: resumed, refused by the gate, or full from the start."""
    if result.resumed is not None:
        return _resumed(plan, result, result.resumed)
    reason = plan.reason
    if plan.attempts:
        # A state that does not fit is passed over unjudged: its divergence is NaN.
        judged = any(math.isfinite(divergence) for divergence in result.divergences)
        reason = "gate" if judged else "state-unreadable"
    return Verdict(
        kind=VerdictKind.MISS if plan.attempts else plan.kind,
        reason=reason,
        steps=result.steps,
        skipped=result.skipped,
        wasted=result.wasted,
        similarity=plan.similarity,
        divergence=_last(result.divergences),
        saved_gpu_seconds=_saved(result),
        evaluations=result.evaluations,
    )


def _resumed(plan: Plan, result: JobResult, index: int) -> Verdict:
    used = plan.neighbours[index]
    return Verdict(
        kind=VerdictKind.APPROX,
        reason=plan.reason,
        steps=result.steps,
        skipped=result.skipped,
        wasted=result.wasted,
        similarity=used.similarity,
        divergence=_last(result.divergences),
        source_id=used.entry_id,
        source_prompt=used.prompt,
        saved_gpu_seconds=_saved(result),
        seed_exact=False,
        evaluations=result.evaluations,
        entry=result.entry,
    )


def _saved(result: JobResult) -> float:
    return (result.skipped - result.wasted) * result.step_seconds


def _last(divergences: tuple[float, ...]) -> float | None:
    if not divergences or not math.isfinite(divergences[-1]):
        return None
    return divergences[-1]
