"""The key file: API keys, hashed, in one small JSON file.

A file, not the catalogue: keys must work while the catalogue is away, must not go with a cache that is thrown away,
and a key must be creatable before the service has ever started. Several instances mount the same file. It is replaced
as a whole, under a lock, readable for its owner alone.

A key is 256 random bits, so one SHA-256 is all the hashing it needs: there is nothing to guess, as there is with
passwords.
"""

import fcntl
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from service.access.identity import NO_RIGHTS, Rights

KEY_PREFIX = "hs_"
TENANT_PATTERN = r"^[A-Za-z0-9._-]{1,64}$"
MOST_LABEL = 100


class KeyringError(Exception):
    """The key file cannot be read or written, or an order to it makes no sense; the message is one clear line."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What is kept of a key.

    Attributes:
        key_id: names it in lists; tells nothing of the key.
        tenant: whom it stands for.
        label: a note for people.
        sha256: of the key, in hex.
        created: Unix seconds.
        revoked: Unix seconds; None = in force.
        rights: what it allows.
    """

    key_id: str
    tenant: Annotated[str, Field(pattern=TENANT_PATTERN)]
    label: str
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    created: float
    revoked: float | None = None
    rights: Rights = NO_RIGHTS


_FILE = TypeAdapter(dict[str, list[KeyRecord]])


def key_digest(key: str) -> str:
    """Return what is kept in place of a key."""
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def list_keys(path: Path) -> list[KeyRecord]:
    """Return all keys, revoked ones too, oldest first; none where there is no file.

    Raises:
        KeyringError: the file cannot be read.
    """
    try:
        found = _FILE.validate_json(path.read_bytes(), strict=False)
        return found["keys"]
    except FileNotFoundError:
        return []
    except (OSError, ValidationError, KeyError) as error:
        raise KeyringError(f"the key file {path.name} cannot be read: {type(error).__name__}") from None


def create_key(path: Path, tenant: str, label: str = "", rights: Rights | None = None) -> tuple[str, KeyRecord]:
    """Add a key and return it with its record: the key itself is kept nowhere.

    Raises:
        KeyringError: a bad name or label, or the file cannot be read or written.
    """
    if not re.fullmatch(TENANT_PATTERN, tenant):
        raise KeyringError("tenant: 1 to 64 letters, digits, dots, underscores or hyphens")
    if len(label) > MOST_LABEL or not label.isprintable():
        raise KeyringError(f"label: at most {MOST_LABEL} printable characters")
    key = KEY_PREFIX + secrets.token_urlsafe(32)
    record = KeyRecord(secrets.token_hex(4), tenant, label, key_digest(key), time.time(), rights=rights or NO_RIGHTS)
    _change(path, lambda records: [*records, record])
    return key, record


def revoke_key(path: Path, key_id: str) -> KeyRecord:
    """Put a key out of force and return its record; it stays in the list.

    Raises:
        KeyringError: no key has that id, or the file cannot be read or written.
    """

    def revoked(records: list[KeyRecord]) -> list[KeyRecord]:
        if all(record.key_id != key_id for record in records):
            raise KeyringError(f"there is no key {key_id[:40]!r}; `headstart keys list` shows them")
        return [
            replace(record, revoked=record.revoked or time.time()) if record.key_id == key_id else record
            for record in records
        ]

    return next(record for record in _change(path, revoked) if record.key_id == key_id)


def _change(path: Path, change: Callable[[list[KeyRecord]], list[KeyRecord]]) -> list[KeyRecord]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(path):
            records = change(list_keys(path))
            _replace(path, _FILE.dump_json({"keys": records}, indent=1))
            return records
    except OSError as error:
        raise KeyringError(f"the key file {path.name} cannot be written: {type(error).__name__}") from None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _replace(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
