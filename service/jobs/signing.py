"""Signatures of webhooks, as Standard Webhooks says (standardwebhooks.com)."""

import base64
import hashlib
import hmac

SECRET_PREFIX = "whsec_"


def secret_bytes(text: str) -> bytes:
    """Return the key of a secret `whsec_` + base64 of 24 to 64 bytes. Raises ValueError."""
    if not text.startswith(SECRET_PREFIX):
        raise ValueError(f"must start with {SECRET_PREFIX}")
    try:
        key = base64.b64decode(text.removeprefix(SECRET_PREFIX), validate=True)
    except ValueError:
        raise ValueError(f"must be {SECRET_PREFIX} and base64") from None
    if not 24 <= len(key) <= 64:
        raise ValueError("must stand for 24 to 64 bytes")
    return key


def signature(key: bytes, message_id: str, timestamp: int, payload: bytes) -> str:
    """Return what goes into `webhook-signature`: HMAC-SHA256 over id, time and payload."""
    signed = f"{message_id}.{timestamp}.".encode() + payload
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
