"""Puts the shadow audit together, where the service's settings, model and matching allow one."""

from cache_store.store import CacheStore
from policies.matching import PAPER_ROWS, ThresholdRow, ThresholdTable
from policies.matching.audit import AuditController, Rules
from service.audit import ShadowAudit
from service.audit_metrics import AuditMetrics
from service.audit_notebook import AuditNotebook, notebook_key
from service.engine.base import Engine
from service.judges import SharedJudge
from service.settings import Settings
from service.turnstile import Turnstile

FILE = "audit.json"
"""In the data folder."""


def make_audit(
    settings: Settings,
    table: ThresholdTable | None,
    engine: Engine,
    embedder_digest: str,
    store: CacheStore,
    turnstile: Turnstile,
    metrics: AuditMetrics,
    judge: SharedJudge | None,
) -> ShadowAudit | None:
    """Return the audit; None where there is no judge, or no table of bounds to audit.

    Args:
        settings: how much to audit.
        table: of the served model, if there is one.
        engine: started.
        embedder_digest: of the embedder's weights.
        store: the cache.
        turnstile: of the clients.
        metrics: where findings are counted.
        judge: compares pictures; None = there is none.
    """
    rows = _rows(settings, table)
    if not rows or judge is None:
        return None
    controller = AuditController(rows, Rules(settings.audit_bound), frozen=settings.audit_frozen)
    info = engine.info
    names = {"weights": info.weights_digest, "dtype": info.dtype, "embedder": embedder_digest, "judge": judge.name}
    notebook = AuditNotebook(settings.data_dir / FILE, notebook_key(rows, names))
    share = settings.audit_share
    return ShadowAudit(controller, engine, store, turnstile, metrics, notebook, judge=judge, share=share)


def _rows(settings: Settings, table: ThresholdTable | None) -> tuple[ThresholdRow, ...]:
    if settings.matching == "paper":
        return PAPER_ROWS
    return table.rows if settings.matching == "calibrated" and table is not None else ()
