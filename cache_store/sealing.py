"""Encryption at rest of states and pictures: AES-256-GCM under a key per tenant, bound to the object's name.

What it is good for: whoever reads the disk or the bucket alone learns no picture and no latent, can put none in
another's place, and cannot alter one. The catalogue in Redis (prompts, embeddings) is not encrypted here.

A tenant's key is derived from the master key by HKDF (RFC 5869) with a tag that stands for the tenant. The tag is
kept with the object, so that it can be opened without knowing whose it is; it tells that two objects are of one
tenant, but not of which. Nonces are 96 random bits (NIST SP 800-38D): good for 2^32 objects per tenant.
"""

import hmac
import os
import re
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

MAGIC = b"HSE\x01"
_TAG_BYTES = 16
_NONCE_BYTES = 12
_HEAD_BYTES = len(MAGIC) + _TAG_BYTES
_KEY_TEXT = re.compile(r"[0-9a-fA-F]{64}")


class KeyFileError(Exception):
    """The master key cannot be read; the message is one clear line without any of it."""


def read_master_key(path: Path) -> bytes:
    """Return the 32 bytes of a master key, which its file holds as 64 hex digits.

    Raises:
        KeyFileError: there is no such file, or it holds something else.
    """
    try:
        text = path.read_text("ascii").strip()
    except (OSError, ValueError) as error:
        raise KeyFileError(f"encryption key file {path.name} cannot be read: {type(error).__name__}") from None
    if not _KEY_TEXT.fullmatch(text):
        raise KeyFileError(
            f"encryption key file {path.name} must hold 64 hex digits, as `openssl rand -hex 32` writes"
        )
    return bytes.fromhex(text)


def is_sealed(data: bytes) -> bool:
    """Return whether an object was written with encryption."""
    return data.startswith(MAGIC)


class Sealer:
    """Encrypts and decrypts objects."""

    def __init__(self, master: bytes) -> None:
        """Use the master key of 32 bytes."""
        self._master = master

    def seal(self, name: str, data: bytes, tenant: str) -> bytes:
        """Return an object's bytes as they are stored under `name`."""
        head, nonce = MAGIC + self._tag(tenant), os.urandom(_NONCE_BYTES)
        return head + nonce + self._cipher(head).encrypt(nonce, data, head + name.encode())

    def try_open(self, name: str, stored: bytes) -> bytes | None:
        """Return what was sealed under `name`; None for another key, another name, or anything altered or plain."""
        head, nonce = stored[:_HEAD_BYTES], stored[_HEAD_BYTES : _HEAD_BYTES + _NONCE_BYTES]
        if not is_sealed(head) or len(nonce) < _NONCE_BYTES:
            return None
        try:
            return self._cipher(head).decrypt(nonce, stored[_HEAD_BYTES + _NONCE_BYTES :], head + name.encode())
        except InvalidTag:
            return None

    def _tag(self, tenant: str) -> bytes:
        return hmac.digest(self._master, b"headstart tenant tag " + tenant.encode(), "sha256")[:_TAG_BYTES]

    def _cipher(self, head: bytes) -> AESGCM:
        info = b"headstart objects " + head[len(MAGIC) :]
        return AESGCM(HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(self._master))
