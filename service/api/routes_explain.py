"""`POST /v1/cache/explain`: what the cache would do for a request, without doing it."""

import math
from collections.abc import Sequence

from fastapi import APIRouter

from cache_store.generations import GenerationRecord
from policies.matching.base import Attempt
from service.api.dependencies import IdentityOf, ServiceOf
from service.api.documented import EXPLAIN_ERRORS
from service.api.header_words import CacheControl
from service.api.schema import GenerationBody
from service.api.schema_explain import AttemptBody, CandidateBody, ExpectedBody, ExplainAnswer, HeldState
from service.api.wishes import lora_set, order_of
from service.previews import steps_before
from service.types import CandidateView, Foresight

router = APIRouter()


@router.post("/v1/cache/explain", responses=EXPLAIN_ERRORS, summary="What the cache would do")
async def explain(
    body: GenerationBody,
    service: ServiceOf,
    identity: IdentityOf,
    cache_control: CacheControl = "",
) -> ExplainAnswer:
    """Tell how the first picture of a request would be planned now; nothing is drawn, loaded or counted.

    What other tenants share is left out, whatever the scope.
    """
    loras = await lora_set(body, service.info, service.loras)
    order = order_of(body, cache_control, service.info, service.settings, identity, loras=loras)
    foresight = await service.planner.foresee(order.requests[0])
    entries = [view.candidate.entry_id for view in foresight.candidates]
    makers = await service.store.makers_of(entries, identity.tenant)
    return _answer(foresight, makers, service.totals.of(identity.tenant).step_seconds)


def _answer(foresight: Foresight, makers: Sequence[GenerationRecord | None], step_seconds: float) -> ExplainAnswer:
    plan = foresight.plan
    steps = plan.request.steps
    mixing = int(plan.request.cache.diversity > 0)  # noise is exchanged by one more prediction
    return ExplainAnswer(
        verdict=plan.kind.value,
        reason=plan.reason,
        steps=steps,
        similarity=plan.similarity,
        exact_entry=None if plan.source is None else str(plan.source.entry_id),
        candidates=[_candidate(*one) for one in zip(foresight.candidates, makers, strict=True)],
        attempts=[_attempt(attempt, steps, step_seconds, mixing) for attempt in foresight.attempts],
    )


def _candidate(view: CandidateView, maker: GenerationRecord | None) -> CandidateBody:
    found = view.candidate
    return CandidateBody(
        id=str(found.entry_id),
        generation=None if maker is None else maker.generation,
        similarity=found.similarity,
        prompt=found.prompt,
        vetoed=bool(view.objections),
        veto_reasons=list(view.objections),
        reason=view.reason,
        states=[
            HeldState(
                skip=state.skip,
                log_snr=state.log_snr,
                approximated=state.approximated,
                form=state.form,
                has_prediction=state.has_prediction,
            )
            for state in found.states
        ],
    )


def _attempt(attempt: Attempt, steps: int, step_seconds: float, mixing: int) -> AttemptBody:
    deeper = [(rung.state.skip, rung.max_divergence, 1 + mixing) for rung in attempt.deeper]
    outcomes = [*deeper, (attempt.state.skip, attempt.max_divergence, mixing)]
    return AttemptBody(
        id=str(attempt.entry_id),
        similarity=attempt.similarity,
        judged_at=attempt.state.skip,
        outcomes=[_expected(*outcome, steps=steps, step_seconds=step_seconds) for outcome in outcomes],
    )


def _expected(skip: float, bound: float, wasted: int, *, steps: int, step_seconds: float) -> ExpectedBody:
    skipped = steps_before(skip, steps)
    return ExpectedBody(
        skip=skip,
        max_divergence=bound if math.isfinite(bound) else None,
        skipped_steps=skipped,
        wasted_steps=wasted,
        saved_share=(skipped - wasted) / steps,
        saved_gpu_seconds=(skipped - wasted) * step_seconds if step_seconds else None,
    )
