"""Who may use the service: API keys, and the tenant each of them stands for."""

from service.access.identity import ANONYMOUS_RIGHTS, Identity
from service.access.keyring import KeyRecord, KeyringError, create_key, list_keys, revoke_key
from service.access.watch import Keyring

__all__ = [
    "ANONYMOUS_RIGHTS",
    "Identity",
    "KeyRecord",
    "Keyring",
    "KeyringError",
    "create_key",
    "list_keys",
    "revoke_key",
]
