"""The nouns of one request's way through the service (design: GenerationRequest, Plan, Verdict)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cache_store.types import Scope, Signature, StoredImage
from policies.features.choice import FeatureChoice
from policies.matching.base import Attempt, Candidate
from service.engine.base import Entry, JobSpec, Lora
from service.engine.reference import Reference


class CacheMode(StrEnum):
    """What the client allows the cache to do.

    `auto` becomes `exact` when the client gave a seed (same seed, same picture), else `approximate`.
    """

    AUTO = "auto"
    EXACT = "exact"
    APPROXIMATE = "approximate"
    OFF = "off"


class VerdictKind(StrEnum):
    """What the cache did for a request."""

    EXACT = "EXACT"
    APPROX = "APPROX"
    MISS = "MISS"
    BYPASS = "BYPASS"
    REFRESH = "REFRESH"


@dataclass(frozen=True, slots=True)
class CacheOptions:
    """The request's wishes towards the cache.

    Attributes:
        mode: see `CacheMode`.
        min_similarity: the client's own floor on cosine similarity.
        max_skip_ratio: the client's own ceiling on skipped steps ÷ steps.
        read: False for `Cache-Control: no-cache`: look nothing up, still store (REFRESH).
        store: False for `Cache-Control: no-store`: do not remember this run.
        only_if_cached: refuse rather than generate in full (`Cache-Control: only-if-cached`).
        scope: whose generations it may resume from, and who may resume from it.
        share_read: whether the client may resume from what other tenants share.
        share_write: whether other tenants may resume from what is drawn for it.
        diversity: share of a resumed state's noise to exchange for the seed's own, see `JobSpec.diversity`.
        max_age: seconds; what was stored longer ago is not used (`Cache-Control: max-age`), None = any age.
        min_fresh: seconds; what has less time left to live is not used (`Cache-Control: min-fresh`).
    """

    mode: CacheMode = CacheMode.AUTO
    min_similarity: float = 0.0
    max_skip_ratio: float = 1.0
    read: bool = True
    store: bool = True
    only_if_cached: bool = False
    diversity: float = 0.0
    max_age: float | None = None
    min_fresh: float = 0.0
    scope: Scope = "tenant"
    share_read: bool = False
    share_write: bool = False

    @property
    def reads_public(self) -> bool:
        """Whether it asks for what other tenants share: then nothing that depends on what was found is told."""
        return self.scope == "public" and self.share_read

    @property
    def shows_public(self) -> bool:
        """Whether what others share may be resumed from.

        Not under bounds of the client's own: by moving them until the verdict changes, it would learn what is hidden.
        """
        bounded = self.min_similarity > 0 or self.max_skip_ratio < 1 or self.max_age is not None or self.min_fresh > 0
        return self.reads_public and not bounded

    @property
    def publishes(self) -> bool:
        """Whether it is remembered in that partition."""
        return self.scope == "public" and self.share_write

    def accepts(self, age: float, seconds_left: float) -> bool:
        """Return whether an entry of this age, with so long to live, may be used."""
        return (self.max_age is None or age <= self.max_age) and seconds_left >= self.min_fresh


@dataclass(frozen=True, slots=True)
class FeatureWish:
    """What is asked of feature caching.

    Attributes:
        policy: "off", "auto", or names of methods joined by "+".
        strength: of named methods, in (0, 1]: from conservative to fast.
        min_quality: for "auto", in (0, 1]: the quality bound, as a share of the quality without feature caching.
    """

    policy: str = "off"
    strength: float = 0.5
    min_quality: float = 0.99


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One validated picture wish (a client's `n` pictures are n of these).

    `deadline` is the time.monotonic() after which it is given up, None = never. `user` is the digest of the client's
    user, empty = not named: what is remembered of the picture can be deleted by it, and in the scope `user` serves
    that user alone. `reference` is a picture to begin from.
    """

    request_id: str
    tenant: str
    prompt: str
    negative_prompt: str
    width: int
    height: int
    steps: int
    guidance_scale: float
    scheduler: str
    seed: int
    seed_given: bool
    loras: tuple[Lora, ...] = ()
    features: FeatureWish = FeatureWish()
    cache: CacheOptions = field(default_factory=CacheOptions)
    deadline: float | None = None
    user: str = ""
    reference: Reference | None = None

    @property
    def begin(self) -> int:
        """The step of N it begins at without a head start: 0, unless it is given a picture."""
        return 0 if self.reference is None else self.reference.begin(self.steps)


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """What a run will do about feature caching.

    Attributes:
        requested: the wish's policy.
        choice: what the engine is asked for; None = no feature caching.
        reason: why there is none although it was asked for, in one bounded word: "unsupported", "uncalibrated" or
            "no-safe-policy".
    """

    requested: str = "off"
    choice: FeatureChoice | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class FeatureVerdict:
    """What feature caching did for a picture.

    Attributes:
        policy: as run, or that of the stored picture; "off" where nothing was to be reused.
        strength: as run; None where the policy is "off".
        requested: the wish's policy.
        computed: network evaluations in which everything was computed.
        reused: network evaluations in which something was reused.
        compute_share: multiplications executed, of those the same evaluations take in full; None without any.
        reason: why nothing was cached although it was asked for: one bounded word of `FeaturePlan.reason` or
            `FeatureReport.reason`, or "exact" for a stored picture; None = it ran, or was not asked for.
    """

    policy: str = "off"
    strength: float | None = None
    requested: str = "off"
    computed: int = 0
    reused: int = 0
    compute_share: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the client and the metrics are told.

    Attributes:
        kind: EXACT, APPROX, MISS, BYPASS or REFRESH.
        reason: one bounded word saying why (for a MISS: "no-candidates", "low-similarity", "no-states", "no-gain",
            "veto", "gate", "audit", "uncalibrated", "cache-unavailable", "state-unreadable"; …).
        steps: N; of an edit those after the step its picture enters at, and K counts from there.
        skipped: K, denoising steps not run (N for an exact hit).
        wasted: denoising steps run and thrown away: the divergence gate refused a state, or judged at one and went on
            from a deeper one, or noise was exchanged by one's prediction.
        similarity: cosine similarity of the entry used (or of the best one), None without candidates.
        divergence: the gate's value for the state used (or of the last one refused).
        source_id: the entry resumed from or returned.
        source_prompt: its prompt.
        saved_gpu_seconds: estimated device time saved, wasted steps subtracted; negative when the gate
            refused and a step was run for nothing.
        seed_exact: False when the picture is not the one this seed gives from pure noise.
        evaluations: network evaluations run, those of wasted steps included; some solvers take two per step.
        entry: APPROX only: how the solver took up the state (see `JobResult.entry`).
        features: what feature caching did.
        hidden: whether all but kind and steps was left out, see `verdicts.shown`.
        diversity: share of the state's noise that was exchanged.
    """

    kind: VerdictKind
    reason: str
    steps: int
    skipped: int = 0
    wasted: int = 0
    similarity: float | None = None
    divergence: float | None = None
    source_id: int | None = None
    source_prompt: str | None = None
    saved_gpu_seconds: float = 0.0
    seed_exact: bool = True
    evaluations: int = 0
    entry: Entry | None = None
    features: FeatureVerdict = FeatureVerdict()
    hidden: bool = False
    diversity: float = 0.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The entry a plan starts from: what the client is told of it, unless it is another tenant's (`foreign`)."""

    entry_id: int
    prompt: str | None
    similarity: float
    foreign: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How one request will run.

    Attributes:
        request: the request.
        signature: its partition.
        exact_key: hash of everything that makes two requests the same picture.
        plain_key: the same without feature caching.
        features: what the run will do about feature caching.
        kind: the verdict so far: EXACT and APPROX are foreseen hits, the others run in full.
        reason: one bounded word saying why.
        job: what the engine runs; None for EXACT. `job.resume` is tried in order, behind the gate.
        attempts: parallel to `job.resume`.
        neighbours: parallel to `attempts`.
        image: EXACT only: the stored lossless picture.
        full_seconds: EXACT only: device time of the run that drew it, wasted steps left out; 0 = not known.
        source: the entry returned (EXACT), or the one tried first (APPROX).
        similarity: of the best candidate, None without candidates.
        seconds: time spent per stage ("embed", "search", "load").
        capture: shares of the steps at which runs leave states.
        isolated: see `JobSpec.isolated`.
    """

    request: GenerationRequest
    signature: Signature
    exact_key: str
    kind: VerdictKind
    reason: str
    plain_key: str = ""
    features: FeaturePlan = FeaturePlan()
    job: JobSpec | None = None
    attempts: tuple[Attempt, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    image: StoredImage | None = None
    full_seconds: float = 0.0
    source: Neighbour | None = None
    similarity: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    capture: tuple[float, ...] = ()
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class CandidateView:
    """A neighbour as a dry run shows it.

    Attributes:
        candidate: the neighbour and the states it holds.
        objections: why it may not be resumed from, however similar: see `MatchingPolicy.objections`.
        reason: what the matching policy would say if it were the only one: "match", or why not.
    """

    candidate: Candidate
    objections: tuple[str, ...]
    reason: str


@dataclass(frozen=True, slots=True)
class Foresight:
    """How a request would run.

    Attributes:
        plan: its plan as far as the catalogue tells; no state is loaded.
        candidates: neighbours looked at, most similar first; () where none were looked for.
        attempts: what would be tried, in order, behind the gate.
    """

    plan: Plan
    candidates: tuple[CandidateView, ...] = ()
    attempts: tuple[Attempt, ...] = ()
