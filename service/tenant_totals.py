"""Running totals of the whole service and of each tenant: what one tenant reads tells nothing of another's doings."""

from service.engine.base import JobResult
from service.totals import Totals
from service.types import GenerationRequest, Plan, Verdict
from service.verdicts import is_hidden, is_veiled, shown


class TenantTotals:
    """Totals of everybody, and per tenant; tenants are as many as have keys."""

    def __init__(self) -> None:
        self.everybody = Totals()
        self._tenants: dict[str, Totals] = {}

    def of(self, tenant: str) -> Totals:
        """Return a tenant's totals, without what it may not be told of hits across tenants."""
        return self._tenants.setdefault(tenant, Totals())

    def note_run(self, request: GenerationRequest, verdict: Verdict, result: JobResult) -> None:
        """Count a finished run."""
        self.everybody.note_run(result)
        if not is_hidden(request, verdict):  # its device time would tell how many steps were skipped
            self.of(request.tenant).note_run(result)

    def note_spent(self, plan: Plan, seconds: float) -> None:
        """Count the device time of a picture that is finished, or given up before it was."""
        self.everybody.gpu_seconds += seconds
        if not is_veiled(plan):
            self.of(plan.request.tenant).gpu_seconds += seconds

    def note_verdict(self, request: GenerationRequest, verdict: Verdict) -> None:
        """Count an answered picture."""
        self.everybody.note_verdict(verdict)
        self.of(request.tenant).note_verdict(shown(request, verdict))
