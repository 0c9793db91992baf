"""The shadow audit: what it has found, and orders to it."""

from fastapi import APIRouter

from service.api.dependencies import OperatorOf, ServiceOf
from service.api.documented import LOOKUP_ERRORS, OPERATOR_ERRORS
from service.api.errors import InvalidRequestError
from service.api.schema_audit import AuditBandBody, AuditBody, AuditOrder
from service.assembly import Service
from service.audit import ShadowAudit

router = APIRouter()


@router.get("/v1/cache/audit", responses=OPERATOR_ERRORS, summary="What audits of approximate hits found")
async def found(service: ServiceOf, _: OperatorOf) -> AuditBody:
    """Return the rate of bad hits per band, and how far bounds are tightened."""
    return AuditBody(enabled=False, reason=_why_not(service)) if service.audit is None else _body(service.audit)


@router.post("/v1/cache/audit", responses={**LOOKUP_ERRORS, **OPERATOR_ERRORS}, summary="Freeze or reset the audit")
async def order(service: ServiceOf, _: OperatorOf, wish: AuditOrder) -> AuditBody:
    """Do as told, and return where the audit stands then."""
    if service.audit is None:
        why = f"nothing is audited here: {_why_not(service)}"
        raise InvalidRequestError(None, why, code="audit_off", status=404)
    await service.audit.order(frozen=wish.frozen, reset=wish.reset)
    return _body(service.audit)


def _why_not(service: Service) -> str:
    if not service.settings.judge_name:
        return "there is no judge: name one with HEADSTART_JUDGE"
    return "there are no bounds to audit: no threshold table, or an empty one (headstart calibrate matching)"


def _body(audit: ShadowAudit) -> AuditBody:
    controller = audit.controller
    return AuditBody(
        enabled=audit.complaint is None,
        reason=audit.complaint,
        judge=audit.judge,
        share=audit.share,
        bound=controller.rules.bound,
        frozen=controller.frozen,
        queued=audit.queued,
        factors=controller.factors,
        evidence=controller.evidence,
        bands=[
            AuditBandBody(
                similarity=band.similarity,
                skip=band.skip,
                hits=band.hits,
                bad=band.bad,
                good=band.good,
                bad_hit_rate=band.rate,
                lower=band.lower,
                upper=band.upper,
            )
            for band in controller.report()
        ],
    )
