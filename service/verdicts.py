"""From a plan and what the engine made of it to the verdict told to the client and the metrics."""

import math
from dataclasses import replace

from service.engine.base import JobResult
from service.types import FeatureVerdict, GenerationRequest, Plan, Verdict, VerdictKind

ACROSS_TENANTS = "public"
"""The reason of every verdict after a search that took in other tenants' generations."""


def exact_verdict(plan: Plan) -> Verdict:
    """Return the verdict of a stored picture; it saved what its own run took, and nothing else moves that."""
    steps = plan.request.steps - plan.request.begin
    return Verdict(
        kind=VerdictKind.EXACT,
        reason=plan.reason,
        steps=steps,
        skipped=steps,
        similarity=plan.similarity,
        source_id=plan.source.entry_id if plan.source else None,
        source_prompt=plan.source.prompt if plan.source else None,
        saved_gpu_seconds=plan.full_seconds,
        features=_features_of_stored(plan),
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
        steps=result.steps - result.begin,
        skipped=result.head_start,
        wasted=result.wasted,
        similarity=plan.similarity,
        divergence=_last(result.divergences),
        saved_gpu_seconds=_saved(result),
        evaluations=result.evaluations,
        features=_features(plan, result),
    )


def is_hidden(request: GenerationRequest, verdict: Verdict) -> bool:
    """Return whether other tenants' generations were among what was searched, so that numbers could tell of them."""
    return request.cache.reads_public and verdict.kind in (VerdictKind.APPROX, VerdictKind.MISS)


def shown(request: GenerationRequest, verdict: Verdict) -> Verdict:
    """Return what a client may be told of a verdict.

    After a search across tenants that is the kind, and nothing that depends on what was found: similarity, K, source,
    divergence, and whatever counts steps or evaluations. Own hits are told no better, or they would tell by contrast.
    """
    if not is_hidden(request, verdict):
        return verdict
    features = verdict.features
    return Verdict(
        kind=verdict.kind,
        reason=ACROSS_TENANTS,
        steps=verdict.steps,
        seed_exact=verdict.seed_exact,
        features=FeatureVerdict(features.policy, features.strength, features.requested, reason=features.reason),
        hidden=True,
    )


def is_veiled(plan: Plan) -> bool:
    """Return whether the verdict will be hidden, whatever comes of the plan, see `is_hidden`."""
    return plan.request.cache.reads_public and plan.kind in (VerdictKind.APPROX, VerdictKind.MISS)


def foretold(plan: Plan) -> Plan:
    """Return what a client may be told of a plan before the run: after a search across tenants, nothing of it."""
    if not is_veiled(plan):
        return plan
    job = None if plan.job is None else replace(plan.job, resume=())
    return replace(
        plan,
        kind=VerdictKind.MISS,
        reason=ACROSS_TENANTS,
        job=job,
        attempts=(),
        neighbours=(),
        source=None,
        similarity=None,
    )


def saved_by_features(result: JobResult) -> float:
    """Return the device seconds feature caching saved on the steps that were run, by their multiplications.

    What a resumed run skipped is priced at the time its own steps took, which feature caching had made shorter
    (`_saved`). So neither counts what the other does: they may be added.
    """
    report = result.features
    if report is None or report.reason is not None or not 0.0 < report.compute_share <= 1.0:
        return 0.0
    return result.denoise_seconds * (1.0 / report.compute_share - 1.0)


def _resumed(plan: Plan, result: JobResult, index: int) -> Verdict:
    used = plan.neighbours[index]
    return Verdict(
        kind=VerdictKind.APPROX,
        reason=plan.reason,
        steps=result.steps - result.begin,
        skipped=result.head_start,
        wasted=result.wasted,
        similarity=used.similarity,
        divergence=_last(result.divergences),
        source_id=used.entry_id,
        source_prompt=used.prompt,
        saved_gpu_seconds=_saved(result),
        seed_exact=False,
        evaluations=result.evaluations,
        entry=result.entry,
        features=_features(plan, result),
        diversity=result.diversity,
    )


def _saved(result: JobResult) -> float:
    return (result.head_start - result.wasted) * result.step_seconds


def _features(plan: Plan, result: JobResult) -> FeatureVerdict:
    asked, report = plan.features, result.features
    if asked.choice is None or report is None or report.reason is not None:
        reason = asked.reason if asked.choice is None else "unsupported" if report is None else report.reason
        return FeatureVerdict(
            requested=asked.requested, computed=result.evaluations, compute_share=1.0, reason=reason
        )
    return FeatureVerdict(
        policy=report.policy,
        strength=report.strength,
        requested=asked.requested,
        computed=report.computed,
        reused=report.reused,
        compute_share=report.compute_share,
    )


def _features_of_stored(plan: Plan) -> FeatureVerdict:
    asked = plan.features
    if asked.choice is None:
        return FeatureVerdict(requested=asked.requested, reason=asked.reason)
    return FeatureVerdict(asked.choice.policy, asked.choice.strength, asked.requested, reason="exact")


def _last(divergences: tuple[float, ...]) -> float | None:
    if not divergences or not math.isfinite(divergences[-1]):
        return None
    return divergences[-1]
