"""Draws a picture again exactly as its record says; states that are gone are made again from their own sources."""

import asyncio
import math
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np

from cache_store.codec import CODECS
from cache_store.generations import GenerationRecord
from cache_store.records import level_of
from cache_store.renoise import held
from cache_store.states import CorruptState
from cache_store.store import CacheStore
from cache_store.types import FinalState, NoiseState
from service.admission import Admission
from service.chronicle import Chronicle
from service.engine.base import CapturedState, Engine, ImageArray, JobFailed, JobResult, ResumePoint
from service.engine.lora import CHANGED
from service.engine.reference import Reference
from service.forms import Form, kept
from service.generator import GenerationFailedError
from service.keys import text_hash
from service.metrics import Metrics
from service.pictures import decode
from service.provenance import Provenance, StateUsed, latent_sha256, parse, pixels_sha256

FORMS: dict[str, tuple[Form, ...]] = {"trajectory": ("trajectory",), "final": ("final-noise", "final")}
"""How what was kept of a run may have been made, by the form of its state."""
MODEL_KEYS = ("weights_digest", "schedule", "dtype")
FEATURE_KEYS = ("feature_methods", "feature_calibration")


class NotReplayableError(Exception):
    """A picture cannot be had again; the message is for the client.

    Attributes:
        code: "state_gone", "other_model", "other_calibration", "lora_changed" or "record_unreadable".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class TextNeededError(Exception):
    """A record without texts needs them, or was given others; `param` names which."""

    def __init__(self, param: str, message: str) -> None:
        super().__init__(message)
        self.param = param


class PictureNeededError(TextNeededError):
    """A picture that was drawn over is not kept: it is needed again, or another was given."""


@dataclass(frozen=True, slots=True)
class Texts:
    """What the client says was drawn, for records that hold no text, and over which picture: that is never kept."""

    prompt: str | None = None
    negative_prompt: str | None = None
    reference: Reference | None = None


@dataclass(frozen=True, slots=True)
class Replay:
    """A picture drawn again.

    Attributes:
        provenance: of the picture as it was answered.
        image: uint8 [H, W, 3].
        sha256: of its pixels.
        max_difference: largest difference of a level, 0 to 255; None where they differ and the first is not kept.
        runs: how many runs it took: 1, and one for every source whose state was gone.
        differing: names of versions that are others now.
    """

    provenance: Provenance
    image: ImageArray
    sha256: str
    max_difference: int | None
    runs: int
    differing: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether every pixel is the same."""
        return self.sha256 == self.provenance.sha256


@dataclass
class _Errand:
    """One replay on its way.

    Attributes:
        tenant: for whom; sources are looked for among its own records alone.
        deadline: time.monotonic() at which it is given up.
        runs: how many there were.
        made: states made again, by entry and digest.
        reference: the picture that it and its sources began from; None = pure noise.
    """

    tenant: str
    deadline: float
    reference: Reference | None = None
    runs: int = 0
    made: dict[tuple[int, str], NoiseState] = field(default_factory=dict)


class Replayer:
    """Runs recorded generations again; stores nothing, and counts nothing but the device time, which a quota pays.

    Args:
        engine: draws.
        store: holds records, and perhaps the states.
        chronicle: knows the versions now, and which records are being written.
        metrics: where device time is counted.
        admission: charges the tenant's quota.
        seconds: time a replay may take, sources included.
        max_depth: longest chain of resumes whose states are kept, see `forms.kept`.
        judged_at: level of the threshold table, see `forms.kept`.
    """

    def __init__(
        self,
        engine: Engine,
        store: CacheStore,
        chronicle: Chronicle,
        metrics: Metrics,
        admission: Admission,
        *,
        seconds: float,
        max_depth: int,
        judged_at: float | None,
    ) -> None:
        self._engine = engine
        self._store = store
        self._chronicle = chronicle
        self._metrics = metrics
        self._admission = admission
        self._seconds = seconds
        self._max_depth = max_depth
        self._judged_at = judged_at

    async def find(self, generation: str, tenant: str) -> GenerationRecord | None:
        """Return `tenant`'s record of a generation, one just answered included. Raises CacheUnavailable."""
        await self._chronicle.settled(generation)
        return await self._store.generation(generation, tenant)

    async def replay(self, record: GenerationRecord, texts: Texts) -> Replay:
        """Draw a recorded picture again.

        Args:
            record: of the picture.
            texts: for records that hold none.

        Raises:
            NotReplayableError: the picture cannot be had.
            TextNeededError: the texts are missing or wrong.
            GenerationFailedError: the engine gave up.
            RefusedError: the quota of its tenant is used up.
            CacheUnavailable: the store cannot answer now.
        """
        own = _parsed(record)
        _check_picture(own, texts.reference)
        errand = _Errand(record.tenant, time.monotonic() + self._seconds, texts.reference)
        first = await self._first_drawn(own, errand)
        self._check(first)
        result = await self._run(_with_texts(first, texts), errand)
        sha256 = await asyncio.to_thread(pixels_sha256, result.image)
        difference = 0 if sha256 == own.sha256 else await self._difference(own, record, result.image)
        return Replay(own, result.image, sha256, difference, errand.runs, self._differing(first))

    async def _first_drawn(self, own: Provenance, errand: _Errand) -> Provenance:
        """Return the record of the run that made a picture: for a repeat that of the entry, if it is still there.

        Without it the repeat's own request says as much: only full runs are repeated, and of the very same request.
        """
        if own.repeats is None:
            return own
        maker = await self._store.maker_of(own.repeats, errand.tenant)
        return own if maker is None else _parsed(maker)

    async def _run(self, source: Provenance, errand: _Errand) -> JobResult:
        if source.prompt is None or source.negative_prompt is None:
            raise _gone()
        resume = () if source.entered is None else (await self._point(source.entered, errand),)
        _check_picture(source, errand.reference)
        job = source.job(uuid.uuid4().hex, source.prompt, source.negative_prompt, resume, errand.reference)
        errand.runs += 1
        asked = replace(job, deadline=errand.deadline, tenant=errand.tenant)
        async with self._admission.charge(asked) as place, aclosing(self._engine.run(asked)) as events:
            async for event in events:
                if isinstance(event, JobFailed):
                    raise _failure(event)
                place.note(event)
                if isinstance(event, JobResult):
                    self._metrics.steps.inc(event.steps_run)
                    self._metrics.gpu.inc(event.device_seconds)
                    if resume and event.resumed is None:
                        raise _gone()
                    return event
        raise GenerationFailedError("internal", "the engine ended without an answer")

    async def _point(self, used: StateUsed, errand: _Errand) -> ResumePoint:
        """Return where to enter, ungated: the gate has judged."""
        state = await self._state(used, errand)
        return ResumePoint(
            latent=state.latent,
            timestep=state.timestep,
            log_snr=state.log_snr,
            skip=state.skip,
            prediction=None,
            max_divergence=math.inf,
            depth=state.depth,
            approximated=state.approximated,
        )

    async def _state(self, used: StateUsed, errand: _Errand) -> NoiseState:
        """Return a state bit for bit: the stored one, or made again."""
        key = (used.entry_id, used.sha256)
        known = errand.made.get(key) or await self._stored(used, errand)
        if known is None:
            known = errand.made[key] = await self._made_again(used, errand)
        return known

    async def _stored(self, used: StateUsed, errand: _Errand) -> NoiseState | None:
        entry = await self._store.entry(used.entry_id, errand.tenant)
        level = level_of(used.log_snr)
        refs = () if entry is None else entry.states
        if not any(level_of(ref.log_snr) == level and ref.form == used.form for ref in refs):
            return None
        state = await self._store.load(used.entry_id, used.ref)
        return state if state is not None and latent_sha256(state.latent) == used.sha256 else None

    async def _made_again(self, used: StateUsed, errand: _Errand) -> NoiseState:
        """Run the entry's own generation again and keep the state as the store did.

        Raises:
            NotReplayableError: what was kept of that run cannot be made again.
        """
        maker = await self._store.maker_of(used.entry_id, errand.tenant)
        if maker is None:
            raise _gone()
        source = _parsed(maker)
        self._check(source)
        # A run whose state's noise was exchanged keeps no copy: it did not pass through that state.
        inherited = None if source.diversity else source.judged or source.entered
        if inherited is not None and used.form == "trajectory" and _same_level(inherited, used):
            # The entry holds a copy of the state its run was judged at.
            return await self._match(used, [await self._state(inherited, errand)])
        result = await self._run(source, errand)
        copies = [] if inherited is None or used.form == "trajectory" else [await self._state(inherited, errand)]
        return await self._match(used, self._kept(used, result, copies))

    def _kept(self, used: StateUsed, result: JobResult, copies: list[NoiseState]) -> list[NoiseState | FinalState]:
        """Return everything that may have been kept of a run, in the form of the wanted state."""
        runs = [result] if not copies else [_with_copy(result, copies[0]), result]
        found: list[NoiseState | FinalState] = []
        for run in runs:
            for form in FORMS[used.form]:
                states, final = kept(run, form, self._max_depth, judged_at=self._judged_at)
                found += states if final is None else [final]
        return found

    async def _match(self, used: StateUsed, given: Sequence[NoiseState | FinalState]) -> NoiseState:
        found = await asyncio.to_thread(lambda: next(_matching(used, given), None))
        if found is None:
            raise _gone()
        return found

    def _check(self, source: Provenance) -> None:
        """Refuse what another model, or other feature caching, has drawn."""
        differing = self._differing(source)
        if any(name in MODEL_KEYS for name in differing):
            raise NotReplayableError("other_model", "another model drew this picture, or in another number type")
        if source.features is not None and any(name in FEATURE_KEYS for name in differing):
            message = "feature caching was calibrated anew since this picture was drawn"
            raise NotReplayableError("other_calibration", message)

    def _differing(self, source: Provenance) -> tuple[str, ...]:
        now = self._chronicle.versions
        return tuple(sorted(name for name, value in source.versions.items() if now.get(name) != value))

    async def _difference(self, own: Provenance, record: GenerationRecord, image: ImageArray) -> int | None:
        """Return the largest difference to the picture as it was answered, if that is still remembered."""
        entry_id = own.repeats or record.entry_id
        stored = None if entry_id is None else await self._store.image(entry_id, record.tenant)
        if stored is None:
            return None
        before = await asyncio.to_thread(decode, stored.data)
        if pixels_sha256(before) != own.sha256 or before.shape != image.shape:
            return None
        return int(np.abs(before.astype(np.int16) - image.astype(np.int16)).max())


def _matching(used: StateUsed, given: Sequence[NoiseState | FinalState]) -> Iterator[NoiseState]:
    """Yield the wanted state from what may have been kept, as any codec gives it back, if its bits are the same."""
    for one in given:
        if isinstance(one, NoiseState) and level_of(one.log_snr) != level_of(used.log_snr):
            continue
        for codec in CODECS:
            try:
                state = held(used.entry_id, one, used.ref, codec)
            except (CorruptState, ValueError):
                continue
            if latent_sha256(state.latent) == used.sha256:
                yield replace(state, depth=used.depth, approximated=used.approximated)


def _with_copy(result: JobResult, state: NoiseState) -> JobResult:
    """Return a run as if it had kept the state it was judged at; its prediction plays no part in a replay."""
    like = result.captured[0].prediction if result.captured else np.zeros((1, 1, 1), np.float16)
    copy = CapturedState(
        state.latent,
        state.log_snr,
        state.timestep,
        state.skip,
        np.zeros_like(like),
        state.depth + 1,
        state.approximated,
    )
    return replace(result, captured=(copy, *result.captured))


def _with_texts(source: Provenance, texts: Texts) -> Provenance:
    """Return a record with its texts; what was not kept must be given, and be the same."""
    prompt = _text("prompt", source.prompt, texts.prompt, source.prompt_sha256)
    negative = _text(
        "negative_prompt", source.negative_prompt, texts.negative_prompt or "", source.negative_prompt_sha256
    )
    return replace(source, prompt=prompt, negative_prompt=negative)


def _check_picture(source: Provenance, given: Reference | None) -> None:
    used = source.reference
    if used is not None and given is None:
        raise PictureNeededError("image", "image: pictures that were drawn over are not kept; send it again")
    if used is not None and given is not None and used.sha256 != given.digest:
        raise PictureNeededError("image", "image: with its mask, not the picture that was drawn over")


def _text(param: str, kept_text: str | None, given: str | None, sha256: str) -> str:
    if kept_text is not None:
        return kept_text
    if given is None:
        raise TextNeededError(param, f"{param}: this generation was not to be remembered; send its text again")
    if text_hash(given) != sha256:
        raise TextNeededError(param, f"{param}: not the text this picture was drawn with")
    return given


def _same_level(one: StateUsed, other: StateUsed) -> bool:
    return level_of(one.log_snr) == level_of(other.log_snr)


def _parsed(record: GenerationRecord) -> Provenance:
    found = parse(record.body)
    if found is None:
        raise NotReplayableError("record_unreadable", "another version of the service wrote this record")
    return found


def _gone() -> NotReplayableError:
    return NotReplayableError("state_gone", "the state this picture was resumed from cannot be had any more")


def _failure(event: JobFailed) -> Exception:
    if event.code == CHANGED:
        return NotReplayableError(
            "lora_changed", "the file of a LoRA is no longer the one this picture was drawn with"
        )
    return GenerationFailedError(event.code, event.message)
