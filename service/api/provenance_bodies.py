"""From records of generations to the wire format."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from cache_store.generations import GenerationRecord
from service.api.schema import LoraUsed
from service.api.schema_generations import (
    DescendantBody,
    FeaturesRunBody,
    GenerationBodyRecord,
    GenerationRequestBody,
    ReferenceBody,
    SourceRunBody,
    StateBody,
)
from service.provenance import Provenance, StateUsed
from service.types import VerdictKind
from service.verdicts import ACROSS_TENANTS


@dataclass(frozen=True, slots=True)
class Source:
    """A run that a picture descends from.

    Attributes:
        entry_id: what it is, or was, remembered as.
        skip: share of its steps before the state that was resumed from; 1 for a picture that was repeated.
        made: its record, None once that is gone.
    """

    entry_id: int
    skip: float
    made: Provenance | None


def record_body(record: GenerationRecord, found: Provenance, lineage: Sequence[Source]) -> GenerationBodyRecord:
    """Return a record as clients get it.

    Args:
        record: as stored.
        found: what its body says.
        lineage: the runs it descends from, nearest first.
    """
    told = without_source(found) if found.hidden else found
    nearest = lineage[0].made if lineage else None
    return GenerationBodyRecord(
        id=found.generation,
        created=record.created,
        entry=_name(record.entry_id),
        request=_request(found),
        verdict=VerdictKind(found.verdict).value,
        reason=told.reason,
        skipped_steps=told.skipped,
        wasted_steps=told.wasted,
        similarity=told.similarity,
        divergence=told.divergence,
        repeats=_name(found.repeats),
        source_seed=None if nearest is None else nearest.seed,
        judged=_state(told.judged, nearest),
        entered=_state(told.entered, nearest),
        diversity=told.diversity,
        reference=_reference(found),
        lineage=[_source(source) for source in lineage],
        feature_cache=_features(found),
        capture=list(found.capture),
        batch_invariant=found.isolated if nearest is None or found.repeats is None else nearest.isolated,
        versions=dict(found.versions),
        sha256=found.sha256,
    )


def descendant_body(record: GenerationRecord, found: Provenance) -> DescendantBody:
    """Return what an entry's page of descendants says of one."""
    return DescendantBody(
        id=found.generation,
        created=record.created,
        verdict=VerdictKind(found.verdict).value,
        prompt=found.prompt,
        entry=_name(record.entry_id),
        seed=found.seed,
        steps=found.steps_in_full,
        skipped_steps=found.skipped,
        wasted_steps=found.wasted,
        similarity=found.similarity,
    )


def without_source(found: Provenance) -> Provenance:
    """Return a record without what other tenants' generations had a part in; see `verdicts.shown`."""
    return replace(
        found,
        reason=ACROSS_TENANTS,
        skipped=0,
        wasted=0,
        similarity=None,
        divergence=None,
        judged=None,
        entered=None,
        diversity=0.0,
    )


def _request(found: Provenance) -> GenerationRequestBody:
    return GenerationRequestBody(
        prompt=found.prompt,
        negative_prompt=found.negative_prompt,
        prompt_sha256=found.prompt_sha256,
        negative_prompt_sha256=found.negative_prompt_sha256,
        seed=found.seed,
        num_inference_steps=found.steps,
        scheduler=found.solver,
        guidance_scale=found.guidance_scale,
        size=f"{found.width}x{found.height}",
        lora=[LoraUsed(name=lora.name, scale=lora.scale, digest=lora.digest) for lora in found.loras],
    )


def _state(used: StateUsed | None, made: Provenance | None) -> StateBody | None:
    if used is None:
        return None
    return StateBody(
        entry=str(used.entry_id),
        generation=None if made is None else made.generation,
        skip=used.skip,
        log_snr=used.log_snr,
        depth=used.depth,
        approximated=used.approximated,
        form=used.form,
        max_divergence=used.max_divergence,
        sha256=used.sha256,
    )


def _reference(found: Provenance) -> ReferenceBody | None:
    used = found.reference
    if used is None:
        return None
    return ReferenceBody(sha256=used.sha256, strength=used.strength, first_step=used.begin, masked=used.masked)


def _source(source: Source) -> SourceRunBody:
    made = source.made
    return SourceRunBody(
        generation=None if made is None else made.generation,
        entry=str(source.entry_id),
        seed=None if made is None else made.seed,
        skip=source.skip,
    )


def _features(found: Provenance) -> FeaturesRunBody | None:
    ran = found.features
    if ran is None:
        return None
    return FeaturesRunBody(policy=ran.policy, strength=ran.strength, resume_warmup=ran.resume_warmup)


def _name(entry_id: int | None) -> str | None:
    return None if entry_id is None else str(entry_id)
