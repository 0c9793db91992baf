"""From pictures, plans and entries to the wire format."""

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any

from service.api.schema import (
    CacheSummary,
    CompletedEvent,
    GenerationAnswer,
    PictureBody,
    SourceBody,
    VerdictBody,
)
from service.api.wishes import Order
from service.generator import Picture
from service.types import Plan


def answer_of(pictures: Sequence[Picture], order: Order, created: int) -> GenerationAnswer:
    """Return the answer to a generation request."""
    return GenerationAnswer(
        created=created,
        data=[picture_body(picture) for picture in pictures],
        output_format=order.output_format,
        size=order.size,
        cache=_summary(pictures),
    )


def completed_event(picture: Picture, order: Order, created: int) -> CompletedEvent:
    """Return the last event of a stream."""
    item = picture_body(picture)
    return CompletedEvent(
        b64_json=item.b64_json,
        seed=item.seed,
        cache=item.cache,
        created=created,
        output_format=order.output_format,
        size=order.size,
    )


def picture_body(picture: Picture) -> PictureBody:
    """Return one item of `data`."""
    verdict = picture.verdict
    source = None
    if verdict.source_id is not None:
        source = SourceBody(id=str(verdict.source_id), prompt=verdict.source_prompt)
    return PictureBody(
        b64_json=base64.b64encode(picture.data).decode("ascii"),
        seed=picture.seed,
        cache=VerdictBody(
            verdict=verdict.kind.value,
            reason=verdict.reason,
            steps=verdict.steps,
            skipped_steps=verdict.skipped,
            wasted_steps=verdict.wasted,
            similarity=verdict.similarity,
            divergence=verdict.divergence,
            source=source,
            saved_gpu_seconds=verdict.saved_gpu_seconds,
            seed_exact=verdict.seed_exact,
            stored=picture.stored,
        ),
    )


def plan_event(plan: Plan) -> dict[str, Any]:
    """Return the verdict so far: the gate may still refuse a foreseen approximate hit."""
    steps = plan.request.steps
    source = None
    if plan.source is not None:
        source = {"id": str(plan.source.entry_id), "prompt": plan.source.prompt}
    return {
        "verdict": plan.kind.value,
        "reason": plan.reason,
        "steps": steps,
        "first_step": foreseen_step(plan),
        "similarity": plan.similarity if plan.source is None else plan.source.similarity,
        "source": source,
        "seed": plan.request.seed,
    }


def foreseen_step(plan: Plan) -> int:
    """Return K as far as it is known before the run."""
    if plan.job is None:
        return plan.request.steps
    if not plan.job.resume:
        return 0
    return round(plan.job.resume[0].skip * plan.request.steps)


def _summary(pictures: Sequence[Picture]) -> CacheSummary:
    verdicts = [picture.verdict for picture in pictures]
    return CacheSummary(
        verdicts=dict(Counter(verdict.kind.value for verdict in verdicts)),
        steps=sum(verdict.steps for verdict in verdicts),
        skipped_steps=sum(verdict.skipped for verdict in verdicts),
        wasted_steps=sum(verdict.wasted for verdict in verdicts),
        saved_gpu_seconds=sum(verdict.saved_gpu_seconds for verdict in verdicts),
    )
