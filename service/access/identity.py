"""On whose behalf a request is made, and what that one may do."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rights:
    """What a key allows beyond using one's own tenant.

    Attributes:
        share_write: what is drawn with `cache.scope: public` may be seen by other tenants.
        share_read: requests with `cache.scope: public` may resume from what other tenants share.
        operator: may read figures of the whole service, and give orders to it.
    """

    share_write: bool = False
    share_read: bool = False
    operator: bool = False


NO_RIGHTS = Rights()
ANONYMOUS_RIGHTS = Rights(operator=True)
"""Without keys whoever reaches the service is its operator; there is nobody to share with."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose a request is.

    Attributes:
        tenant: whose data it may see and whose it makes.
        rights: what else it may do.
    """

    tenant: str
    rights: Rights
