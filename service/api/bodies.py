"""From pictures, plans and entries to the wire format."""

import base64
from collections import Counter
from collections.abc import Sequence
from typing import Any

from service.api.schema import (
    CacheSummary,
    CompletedEvent,
    FeatureSummary,
    FeatureVerdictBody,
    GenerationAnswer,
    ImageCompletedEvent,
    ImagePartialEvent,
    LoraUsed,
    PictureBody,
    SourceBody,
    TimingsBody,
    VerdictBody,
)
from service.api.wishes import Order
from service.generator import Picture
from service.previews import foreseen_step
from service.types import FeatureVerdict, Plan


def answer_of(
    pictures: Sequence[Picture], order: Order, created: int, urls: Sequence[str] | None = None
) -> GenerationAnswer:
    """Return the answer to a generation request; with URLs, if there are any, in place of the pictures."""
    places = [None] * len(pictures) if urls is None else urls
    return GenerationAnswer(
        created=created,
        data=[picture_body(picture, url) for picture, url in zip(pictures, places, strict=True)],
        output_format=order.output_format,
        size=order.size,
        lora=loras_used(order),
        cache=_summary(pictures),
        feature_cache=_feature_summary(pictures),
    )


def completed_event(picture: Picture, order: Order, created: int) -> CompletedEvent:
    """Return the last event of a watched picture."""
    item = picture_body(picture)
    return CompletedEvent(
        id=item.id,
        b64_json=item.b64_json,
        seed=item.seed,
        cache=item.cache,
        feature_cache=item.feature_cache,
        created=created,
        output_format=order.output_format,
        size=order.size,
        lora=loras_used(order),
    )


def image_partial(data: bytes, index: int, order: Order, created: int) -> ImagePartialEvent:
    """Return OpenAI's event of a picture in progress, already encoded."""
    return ImagePartialEvent(
        b64_json=text_of(data),
        partial_image_index=index,
        created_at=created,
        size=order.size,
        quality=order.quality,
        output_format=order.output_format,
        seed=order.requests[0].seed,
    )


def image_completed(picture: Picture, order: Order, created: int) -> ImageCompletedEvent:
    """Return OpenAI's last event of a stream, with the cache's part."""
    item = picture_body(picture)
    return ImageCompletedEvent(
        id=item.id,
        b64_json=text_of(picture.data),
        created_at=created,
        size=order.size,
        quality=order.quality,
        output_format=order.output_format,
        seed=item.seed,
        lora=loras_used(order),
        cache=item.cache,
        feature_cache=item.feature_cache,
        timings=TimingsBody(
            queue_seconds=picture.queue_seconds,
            denoise_seconds=picture.denoise_seconds,
            decode_seconds=picture.decode_seconds,
            total_seconds=picture.total_seconds,
        ),
    )


def loras_used(order: Order) -> list[LoraUsed]:
    """Return the LoRA set of the pictures, in canonical order."""
    return [LoraUsed(name=lora.name, scale=lora.scale, digest=lora.digest) for lora in order.requests[0].loras]


def text_of(data: bytes) -> str:
    """Return an encoded picture as text for JSON."""
    return base64.b64encode(data).decode("ascii")


def picture_body(picture: Picture, url: str | None = None) -> PictureBody:
    """Return one item of `data`; with a URL, if there is one, in place of the picture."""
    verdict = picture.verdict
    source = None
    if verdict.source_id is not None:
        source = SourceBody(id=str(verdict.source_id), prompt=verdict.source_prompt)
    return PictureBody(
        id=picture.generation,
        b64_json=text_of(picture.data) if url is None else None,
        url=url,
        seed=picture.seed,
        cache=VerdictBody(
            verdict=verdict.kind.value,
            reason=verdict.reason,
            steps=verdict.steps,
            skipped_steps=verdict.skipped,
            wasted_steps=verdict.wasted,
            evaluations=verdict.evaluations,
            entry=verdict.entry,
            similarity=verdict.similarity,
            divergence=verdict.divergence,
            source=source,
            saved_gpu_seconds=verdict.saved_gpu_seconds,
            seed_exact=verdict.seed_exact,
            stored=picture.stored,
            hidden=verdict.hidden,
            diversity=verdict.diversity,
        ),
        feature_cache=_feature_body(verdict.features),
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
        "feature_cache": _planned_features(plan),
    }


def _planned_features(plan: Plan) -> dict[str, Any]:
    asked, choice = plan.features, plan.features.choice
    return {
        "policy": choice.policy if choice else "off",
        "strength": choice.strength if choice else None,
        "requested": asked.requested,
        "reason": asked.reason,
    }


def _feature_body(features: FeatureVerdict) -> FeatureVerdictBody:
    return FeatureVerdictBody(
        policy=features.policy,
        strength=features.strength,
        requested=features.requested,
        computed=features.computed,
        reused=features.reused,
        compute_share=features.compute_share,
        reason=features.reason,
    )


def _feature_summary(pictures: Sequence[Picture]) -> FeatureSummary:
    verdicts = [picture.verdict.features for picture in pictures]
    return FeatureSummary(
        policies=dict(Counter(verdict.policy for verdict in verdicts)),
        computed=sum(verdict.computed for verdict in verdicts),
        reused=sum(verdict.reused for verdict in verdicts),
    )


def _summary(pictures: Sequence[Picture]) -> CacheSummary:
    verdicts = [picture.verdict for picture in pictures]
    return CacheSummary(
        verdicts=dict(Counter(verdict.kind.value for verdict in verdicts)),
        steps=sum(verdict.steps for verdict in verdicts),
        skipped_steps=sum(verdict.skipped for verdict in verdicts),
        wasted_steps=sum(verdict.wasted for verdict in verdicts),
        saved_gpu_seconds=sum(verdict.saved_gpu_seconds for verdict in verdicts),
    )
