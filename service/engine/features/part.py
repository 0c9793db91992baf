"""Feature caching of one job, over all its attempts."""

from dataclasses import dataclass, field

from policies.features.choice import FeatureReport
from service.engine.base import JobSpec
from service.engine.features.caches import FeatureCaches, NothingCached
from service.engine.features.run import FeatureRun, Ledger


@dataclass
class JobFeatures:
    """What a job asks of feature caching, what runs of it now, and what it did.

    Attributes:
        spec: of the job.
        caches: opens runs; None = there is no feature caching.
        run: of this attempt; None where there is none.
        reason: why there is none although it was asked for.
        ledger: what was computed and reused so far.
    """

    spec: JobSpec
    caches: FeatureCaches | None
    run: FeatureRun | None = None
    reason: str | None = None
    ledger: Ledger = field(default_factory=Ledger)

    def open(self, first_step: int) -> None:
        """Begin anew: another attempt remembers nothing of the one before.

        Args:
            first_step: K.
        """
        self.run = None
        choice = self.spec.features
        if choice is None or self.caches is None or self.reason is not None:
            return
        try:
            self.run = self.caches.open(self.spec, choice, first_step, self.ledger)
        except NothingCached as nothing:
            self.reason = nothing.reason

    def forgo(self, reason: str) -> bool:
        """Run the rest, and further attempts, without; tell whether this attempt had reused anything.

        Args:
            reason: one of `FeatureReport.reason`.
        """
        reused = self.approximated
        self.run, self.reason = None, reason
        return reused

    def close(self) -> None:
        """Forget what is remembered: the attempt needs no more evaluations."""
        self.run = None

    @property
    def approximated(self) -> bool:
        """Whether this attempt has reused anything."""
        return self.run is not None and self.run.approximated

    @property
    def cost(self) -> float:
        """Share of a whole evaluation that this one, or the last one, took."""
        return 1.0 if self.run is None else self.run.cost

    def report(self) -> FeatureReport | None:
        """Close the accounts; None where nothing was asked for."""
        choice, ledger = self.spec.features, self.ledger
        if choice is None:
            return None
        return FeatureReport(
            policy=choice.policy,
            strength=choice.strength,
            reason=self.reason,
            computed=ledger.computed,
            reused=ledger.reused,
            compute_share=ledger.spent / ledger.whole if ledger.whole else 1.0,
            state_bytes=ledger.peak_bytes,
        )
