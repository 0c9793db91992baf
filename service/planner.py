"""Decides how a request will run: return a stored picture, resume from a neighbour's state, or run in full.

The cache may make a request cheaper; it may never make it fail. Whatever goes wrong in here ends in a full
run with the reason in its verdict.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from cache_store.store import CacheStore
from cache_store.types import CacheUnavailable, NoiseState
from policies.matching.base import Attempt, Candidate, MatchDecision, MatchingPolicy, StateRef
from service.embedder import Embedder
from service.engine.base import JobSpec, ModelInfo, ResumePoint
from service.features import FeatureCaching
from service.keys import exact_key, signature_of
from service.logs import frames_of
from service.previews import steps_before
from service.tracing import stage
from service.types import (
    CacheMode,
    CandidateView,
    FeaturePlan,
    Foresight,
    GenerationRequest,
    Neighbour,
    Plan,
    VerdictKind,
)

Result = TypeVar("Result")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """Neighbours, most similar first, what the matching policy makes of them, and the time spent per stage."""

    candidates: list[Candidate]
    decision: MatchDecision
    seconds: dict[str, float]

    @property
    def similarity(self) -> float | None:
        return self.candidates[0].similarity if self.candidates else None


class Planner:
    """Plans requests against the cache.

    Args:
        store: what earlier runs left.
        embedder: prompt → vector.
        matching: proposes entries and depths.
        info: the served model.
        capture: shares of the steps at which runs leave states.
        candidates: neighbours to look at.
        features: resolves wishes for feature caching; None = the model has no calibrated front.
        resume_approximated: whether states of runs with feature caching may be resumed from.
        isolated: whether pictures are drawn as if alone, see `JobSpec.isolated`.
        safety_version: of the checker that pictures pass; empty = there is none.
    """

    def __init__(
        self,
        store: CacheStore,
        embedder: Embedder,
        matching: MatchingPolicy,
        info: ModelInfo,
        *,
        capture: tuple[float, ...],
        candidates: int,
        features: FeatureCaching | None = None,
        resume_approximated: bool = True,
        isolated: bool = False,
        safety_version: str = "",
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._matching = matching
        self._info = info
        self._capture = capture
        self._candidates = candidates
        self._features = features or FeatureCaching(info)
        self._resume_approximated = resume_approximated
        self._isolated = isolated
        self._safety_version = safety_version

    @property
    def store(self) -> CacheStore:
        """What earlier runs left."""
        return self._store

    @property
    def embedder_digest(self) -> str:
        """Digest of the embedder that prompts are compared with."""
        return self._embedder.digest

    async def plan(self, request: GenerationRequest) -> Plan:
        """Return the plan; every fault of the cache becomes a full run."""
        full = self._full(request)
        try:
            settled = await self._unsearched(full)
            return settled or await self._resume(full)
        except CacheUnavailable:
            return replace(full, reason="cache-unavailable")
        except Exception as error:  # a bug in matching or store must not cost the client the picture
            extra = {"error": type(error).__name__, "at": frames_of(error)}
            log.error("planning failed, running in full", extra=extra)
            return replace(full, reason="cache-error")

    async def foresee(self, request: GenerationRequest) -> Foresight:
        """Return how `request` would be planned now: nothing is loaded, reserved or counted.

        What other tenants share is not looked at: a dry run tells all it finds.

        Raises:
            CacheUnavailable: the cache cannot answer now; the request would run in full.
        """
        full = self._full(request)
        settled = await self._unsearched(full)
        if settled is not None:
            return Foresight(settled)
        found = await self._look(full, lease=False, public=False)
        chosen = found.decision
        kind = VerdictKind.APPROX if chosen.attempts else VerdictKind.MISS
        plan = replace(full, kind=kind, reason=chosen.reason, similarity=found.similarity)
        views = tuple(self._view(request, candidate) for candidate in found.candidates)
        return Foresight(plan, views, chosen.attempts)

    def _view(self, request: GenerationRequest, candidate: Candidate) -> CandidateView:
        alone = self._choose(request, [candidate])
        return CandidateView(candidate, self._matching.objections(request.prompt, candidate), alone.reason)

    def _full(self, request: GenerationRequest) -> Plan:
        features = self._features.resolve(request, request.begin / request.steps)
        return Plan(
            request=request,
            signature=signature_of(request, self._info, self._embedder.digest, self._safety_version),
            exact_key=self._key(request, features),
            kind=VerdictKind.MISS,
            reason="",
            plain_key=exact_key(request, self._info, self._capture),
            capture=self._capture,
            isolated=self._isolated,
            features=features,
            job=self._job(request, features),
        )

    def _key(self, request: GenerationRequest, features: FeaturePlan) -> str:
        return exact_key(request, self._info, self._capture, features.choice, self._features.calibration)

    def _job(self, request: GenerationRequest, features: FeaturePlan) -> JobSpec:
        return JobSpec(
            job_id=request.request_id,
            prompt=request.prompt,
            negative_prompt=request.negative_prompt,
            seed=request.seed,
            steps=request.steps,
            guidance_scale=request.guidance_scale,
            solver=request.scheduler,
            width=request.width,
            height=request.height,
            deadline=request.deadline,
            loras=request.loras,
            features=features.choice,
            capture=self._capture,  # always: it decides where latents are rounded, so a seed gives one picture
            isolated=self._isolated,
            diversity=request.cache.diversity,
            reference=request.reference,
        )

    async def _unsearched(self, full: Plan) -> Plan | None:
        """Return the plan where no neighbour needs to be looked for."""
        request = full.request
        if request.cache.mode is CacheMode.OFF:
            return replace(full, kind=VerdictKind.BYPASS, reason="cache-off")
        if not request.cache.read:
            return replace(full, kind=VerdictKind.REFRESH, reason="no-cache")
        if request.seed_given and (repeat := await self._repeat(full)) is not None:
            return repeat
        if resolved_mode(request) is CacheMode.EXACT:
            return replace(full, reason="no-exact" if request.seed_given else "no-seed")
        return None

    async def _repeat(self, full: Plan) -> Plan | None:
        hit, seconds = await _timed("lookup", self._store.find_exact(full.exact_key))
        if hit is None or not full.request.cache.accepts(hit.age, hit.seconds_left):
            return None
        source = Neighbour(hit.entry_id, hit.prompt, similarity=1.0)
        return replace(
            full,
            kind=VerdictKind.EXACT,
            reason="exact",
            job=None,
            image=hit.image,
            full_seconds=hit.full_seconds,
            source=source,
            similarity=1.0,
            seconds={"search": seconds},
        )

    async def _resume(self, full: Plan) -> Plan:
        found = await self._look(full, public=full.request.cache.shows_public)
        looked = replace(full, similarity=found.similarity, seconds=found.seconds)
        if not found.decision.attempts:
            return replace(looked, reason=found.decision.reason)
        return await self._load(looked, found.decision.attempts, found.candidates)

    async def _look(self, full: Plan, *, public: bool, lease: bool = True) -> _Found:
        """Find neighbours and let the matching policy choose among them."""
        request = full.request
        vector, embed_seconds = await _timed("embed", self._embedder.embed(request.prompt))
        search = self._store.search(full.signature, vector, limit=self._candidates, lease=lease, public=public)
        neighbours, search_seconds = await _timed("lookup", search)
        nearest = [one for one in neighbours if request.cache.accepts(one.age, one.seconds_left)]
        found = nearest if self._resume_approximated else [_exact_states(candidate) for candidate in nearest]
        if request.reference is not None:
            found = [_later_states(candidate, request) for candidate in found]
        return _Found(found, self._choose(request, found), {"embed": embed_seconds, "search": search_seconds})

    def _choose(self, request: GenerationRequest, candidates: list[Candidate]) -> MatchDecision:
        chosen = self._matching.choose(
            request.prompt,
            candidates,
            min_similarity=request.cache.min_similarity,
            max_skip=request.cache.max_skip_ratio,
            steps=request.steps,
        )
        if not (chosen.attempts and request.cache.diversity):
            return chosen
        # Exchanging noise takes a step.
        least = request.begin + 1
        paying = tuple(one for one in chosen.attempts if steps_before(one.deepest_skip, request.steps) > least)
        return MatchDecision(paying, chosen.reason if paying else "no-gain")

    async def _load(self, looked: Plan, attempts: tuple[Attempt, ...], found: list[Candidate]) -> Plan:
        prompts = {candidate.entry_id: candidate.prompt for candidate in found}
        foreign = {candidate.entry_id for candidate in found if candidate.foreign}
        loading = asyncio.gather(*(self._enter(looked.request, a, prompts[a.entry_id]) for a in attempts))
        entries, seconds = await _timed("load", loading)
        usable = [entry for entry in entries if entry is not None]
        timed = {**looked.seconds, "load": seconds}
        if not usable or looked.job is None:
            return replace(looked, reason="state-unreadable", seconds=timed)
        kept = tuple(attempt for attempt, _ in usable)
        neighbours = tuple(
            Neighbour(a.entry_id, prompts[a.entry_id], a.similarity, a.entry_id in foreign) for a in kept
        )
        features = self._features.resolve(looked.request, kept[0].deepest_skip)
        points = tuple(point for _, point in usable)
        return replace(
            looked,
            # What the seed stands for, should the gate refuse every state.
            exact_key=self._key(looked.request, features),
            features=features,
            kind=VerdictKind.APPROX,
            reason="match",
            job=replace(looked.job, resume=points, features=features.choice),
            attempts=kept,
            neighbours=neighbours,
            source=neighbours[0],
            seconds=timed,
        )

    async def _enter(
        self, request: GenerationRequest, attempt: Attempt, prompt: str | None
    ) -> tuple[Attempt, ResumePoint] | None:
        """Load an attempt's states; None if its own cannot be used, without those deeper ones that cannot."""
        refs = [attempt.state, *(rung.state for rung in attempt.deeper)]
        state, *deeper = await asyncio.gather(*(self._read(attempt.entry_id, ref) for ref in refs))
        if state is not None and attempt.state.form == "final" and prompt == request.prompt:
            # Made with other noise than the source's own state: the gate would take that for another prompt.
            state = replace(state, prediction=None)
        gated = np.isfinite(attempt.max_divergence)
        # Without the source's prediction the gate cannot judge; only the very same prompt may go unjudged.
        judged = state is not None and (state.prediction is not None or not gated or prompt == request.prompt)
        if state is None or not judged:
            return None
        rungs = [(rung, found) for rung, found in zip(attempt.deeper, deeper, strict=True) if found is not None]
        point = _resume_point(state, attempt.max_divergence)
        points = tuple(_resume_point(found, rung.max_divergence) for rung, found in rungs)
        return replace(attempt, deeper=tuple(rung for rung, _ in rungs)), replace(point, deeper=points)

    async def _read(self, entry_id: int, ref: StateRef) -> NoiseState | None:
        """The state, if it is there and fits this model."""
        try:
            state = await self._store.load(entry_id, ref)
        except CacheUnavailable:
            return None
        if state is None or state.latent.shape[0] != self._info.latent_channels:
            return None
        return state if np.isfinite(state.latent).all() else None


def resolved_mode(request: GenerationRequest) -> CacheMode:
    """Return the request's mode with `auto` replaced: a given seed promises its own picture.

    So does a given picture: the bounds of matching were profiled on runs from text alone.
    """
    if request.reference is not None and request.reference.mask is not None:
        # What is kept is the same in both predictions: it would hide from the gate how far the rest is apart.
        return CacheMode.EXACT if request.cache.mode is not CacheMode.OFF else CacheMode.OFF
    if request.cache.mode is not CacheMode.AUTO:
        return request.cache.mode
    exact = request.seed_given or request.reference is not None
    return CacheMode.EXACT if exact else CacheMode.APPROXIMATE


def remembers(request: GenerationRequest) -> bool:
    """Whether the run of this request may be stored."""
    return request.cache.store and request.cache.mode is not CacheMode.OFF


def _exact_states(candidate: Candidate) -> Candidate:
    """Return the candidate without the states that feature caching had a part in."""
    return replace(candidate, states=tuple(state for state in candidate.states if not state.approximated))


def _later_states(candidate: Candidate, request: GenerationRequest) -> Candidate:
    """Return the candidate with the states alone that lie after the step at which a given picture enters."""
    later = tuple(state for state in candidate.states if steps_before(state.skip, request.steps) > request.begin)
    return replace(candidate, states=later)


def _resume_point(state: NoiseState, max_divergence: float) -> ResumePoint:
    return ResumePoint(
        latent=state.latent,
        timestep=state.timestep,
        log_snr=state.log_snr,
        skip=state.skip,
        prediction=state.prediction,
        max_divergence=max_divergence,
        depth=state.depth,
        approximated=state.approximated,
    )


async def _timed(name: str, work: Awaitable[Result]) -> tuple[Result, float]:
    started = time.perf_counter()
    with stage(name):
        result = await work
    return result, time.perf_counter() - started
