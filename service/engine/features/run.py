"""One job's feature caching: its decisions at the evaluation under way, and what it remembers between evaluations.

The invariants are enforced here, whatever a policy says: the entry is computed, as is everything without enough
history, after a gap, and on a distance that is not finite; both halves of a guided pair take the same path. Nothing
is remembered of an evaluation that fails: `commit` takes over what it has made, `reset` forgets everything.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from torch import Tensor

from policies.features.base import (
    CacheLayer,
    Decision,
    Guidance,
    Moment,
    Output,
    PolicyState,
    Probe,
    Recipe,
    Site,
    StepContext,
)

Branch = Literal["conditional", "unconditional", "guided"]
Key = tuple[Branch, int, int]
"""Branch, stage of the step, and block (0 for sites that exist once)."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A computed tensor, [...] without batch, and where on the schedule it was computed."""

    moment: Moment
    value: Tensor


@dataclass
class SiteState:
    """What is remembered of one site.

    Attributes:
        policy: numbers of the policy, one set for each stage of a step.
        history: computed tensors, newest first.
        references: what indicators are compared with.
    """

    policy: dict[int, PolicyState] = field(default_factory=dict)
    history: dict[Key, deque[Remembered]] = field(default_factory=dict)
    references: dict[Key, Tensor] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        kept = sum(item.value.nbytes for entries in self.history.values() for item in entries)
        return kept + sum(tensor.nbytes for tensor in self.references.values())


@dataclass
class Ledger:
    """What feature caching did for a job, over all its attempts.

    Attributes:
        computed: evaluations in which nothing was reused.
        reused: evaluations in which something was.
        spent: multiply-adds executed.
        whole: multiply-adds without feature caching.
        peak_bytes: most bytes remembered at one time.
    """

    computed: int = 0
    reused: int = 0
    spent: float = 0.0
    whole: float = 0.0
    peak_bytes: int = 0


@dataclass
class _Evaluation:
    """What the evaluation under way has decided and made; dropped if it fails."""

    context: StepContext
    decisions: dict[Site, Decision] = field(default_factory=dict)
    noted: dict[Site, Decision] = field(default_factory=dict)
    made: list[tuple[Site, Key, Tensor]] = field(default_factory=list)
    seen: list[tuple[Site, Key, Tensor]] = field(default_factory=list)
    changes: dict[Site, float] = field(default_factory=dict)
    policies: dict[Site, PolicyState] = field(default_factory=dict)
    spent: float = 0.0
    whole: float = 0.0


class FeatureRun:
    """Feature caching of one attempt of a job. Used from the engine's one thread only.

    Args:
        recipe: its layers.
        ledger: of the job.

    Attributes:
        approximated: whether anything was reused so far.
        nbytes: bytes remembered now.
        failed: why the job goes on without, in the words of `FeatureReport.reason`; None = it works.
    """

    def __init__(self, recipe: Recipe, ledger: Ledger) -> None:
        self.recipe = recipe
        self.approximated = False
        self.nbytes = 0
        self.failed: str | None = None
        self._ledger = ledger
        self._branches: tuple[Branch, ...] = ("conditional",)
        self._sites: dict[Site, SiteState] = {}
        self._position: int | None = None
        self._begun = 0
        self._now: _Evaluation | None = None

    @property
    def context(self) -> StepContext:
        """The evaluation under way."""
        return self._evaluation.context

    @property
    def cost(self) -> float:
        """Share of a full evaluation's multiply-adds that the one under way, or the last one, executed."""
        now = self._now
        return 1.0 if now is None or now.whole == 0 else now.spent / now.whole

    def begin(self, context: StepContext, position: int) -> None:
        """Start an evaluation; one that failed has left nothing behind.

        Args:
            context: of the evaluation.
            position: number of the evaluation in this attempt; after a gap nothing remembered is used.
        """
        if self._position is not None and position != self._position + 1:
            self.reset()
        self._now, self._begun = _Evaluation(context), position

    def reset(self) -> None:
        """Forget everything."""
        self._sites.clear()
        self._position, self._now, self.nbytes = None, None, 0

    def commit(self) -> bool:
        """Take over what the evaluation has made; tell whether anything was reused in it."""
        now = self._evaluation
        moment = Moment(now.context.step, now.context.log_snr)
        for site, key, tensor in now.seen:
            self._state(site).references[key] = tensor
        for layer in self.recipe.layers:
            self._commit_layer(layer, now, moment)
        self._position = self._begun
        reused = Decision.REUSE in now.noted.values()
        ledger = self._ledger
        ledger.computed += not reused
        ledger.reused += reused
        ledger.spent += now.spent
        ledger.whole += now.whole
        self.nbytes = sum(state.nbytes for state in self._sites.values())
        ledger.peak_bytes = max(ledger.peak_bytes, self.nbytes)
        self.approximated |= reused
        return reused

    def _commit_layer(self, layer: CacheLayer, now: _Evaluation, moment: Moment) -> None:
        noted = now.noted.get(layer.site)
        if noted is None:
            return
        state = self._state(layer.site)
        for site, key, tensor in now.made:
            if site == layer.site:
                entries = state.history.setdefault(key, deque(maxlen=layer.predictor.depth))
                entries.appendleft(Remembered(moment, tensor))
        policy = state.policy[now.context.stage] = self._policy(layer.site)
        change = now.changes.get(layer.site)
        layer.policy.observe(now.context, policy, computed=noted is Decision.COMPUTE, change=change)

    def _policy(self, site: Site) -> PolicyState:
        """Return the policy's numbers for this evaluation: a copy, so that one that fails changes nothing."""
        now = self._evaluation
        if site not in now.policies:
            now.policies[site] = replace(self._state(site).policy.get(now.context.stage, PolicyState()))
        return now.policies[site]

    def running(self, branches: tuple[Branch, ...]) -> None:
        """Say which network rows the evaluation has, before the sites inside the network are planned."""
        self._branches = branches

    def plan(self, layer: CacheLayer) -> Decision:
        """Decide a site before the forward; the same answer for all rows and blocks of one evaluation."""
        decisions = self._evaluation.decisions
        if layer.site not in decisions:
            decisions[layer.site] = self._plan(layer)
        return decisions[layer.site]

    def _plan(self, layer: CacheLayer) -> Decision:
        context, state = self.context, self._state(layer.site)
        policy = self._policy(layer.site)
        entering = context.executed == 0
        resumed = context.first_step > 0 and context.executed <= layer.resume_warmup
        last = layer.force_last and context.last
        tired = 0 < layer.max_reused <= policy.reused
        if entering or resumed or last or tired or not self._ready(layer, state):
            return Decision.COMPUTE
        return layer.policy.plan(context, policy)

    def _ready(self, layer: CacheLayer, state: SiteState) -> bool:
        """Tell whether every branch that runs now has enough history, all of it equally old."""
        stage, depth, outer = self.context.stage, layer.predictor.depth, isinstance(layer.site, Output | Guidance)
        kept = {
            key: entries
            for key, entries in state.history.items()
            if key[1] == stage and (outer or key[0] in self._branches)
        }
        if not kept or any(len(entries) < depth for entries in kept.values()):
            return False
        complete = outer or {key[0] for key in kept} == set(self._branches)
        return complete and len({entries[0].moment for entries in kept.values()}) == 1

    def decide(self, layer: CacheLayer, distance: float, motion: float | None = None) -> Decision:
        """Decide a site on what its probe shows.

        Args:
            layer: of the recipe, after `plan` answered PROBE.
            distance: largest of the branches'.
            motion: see `Probe`.
        """
        decision = Decision.COMPUTE
        policy = self._policy(layer.site)
        if math.isfinite(distance):
            decision = layer.policy.decide(self.context, policy, Probe(distance, motion))
        self._evaluation.decisions[layer.site] = decision
        return decision

    def note(self, site: Site, decision: Decision) -> None:
        """Record that a site was computed or reused at this evaluation."""
        self._evaluation.noted[site] = decision

    def key(self, branch: Branch, block: int = 0) -> Key:
        """Return under what a tensor of this evaluation is remembered."""
        return branch, self.context.stage, block

    def history(self, site: Site, key: Key) -> Sequence[Remembered]:
        """Return what is remembered under a key, newest first; () if nothing."""
        return tuple(self._state(site).history.get(key, ()))

    def remember(self, site: Site, key: Key, value: Tensor) -> None:
        """Remember a computed tensor once the evaluation is done."""
        self._evaluation.made.append((site, key, value))

    def reference(self, site: Site, key: Key) -> Tensor | None:
        """Return what an indicator is compared with, if there is anything yet."""
        return self._state(site).references.get(key)

    def see(self, site: Site, key: Key, indicator: Tensor) -> None:
        """Make an indicator the reference once the evaluation is done."""
        self._evaluation.seen.append((site, key, indicator))

    def changed(self, site: Site, change: float) -> None:
        """Record how much a computed tensor differs from the one before; the largest of the branches counts."""
        changes = self._evaluation.changes
        known = changes.get(site, 0.0)
        # NaN before any number.
        changes[site] = known if known > change or math.isnan(known) else change

    def spend(self, executed: float, whole: float) -> None:
        """Book multiply-adds: those executed, and those of the same work without feature caching."""
        self._evaluation.spent += executed
        self._evaluation.whole += whole

    def _state(self, site: Site) -> SiteState:
        return self._sites.setdefault(site, SiteState())

    @property
    def _evaluation(self) -> _Evaluation:
        if self._now is None:
            raise RuntimeError("no evaluation is under way")
        return self._now


@dataclass(frozen=True, slots=True)
class Lane:
    """One network row of a job with feature caching."""

    run: FeatureRun
    branch: Branch
