"""The keys in force while the service runs: read again when the file has changed, checked in constant time."""

import hmac
import logging
import time
from pathlib import Path

from service.access.identity import ANONYMOUS_RIGHTS, Identity
from service.access.keyring import KeyRecord, KeyringError, key_digest, list_keys

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_NOBODY = "0" * 64
Stamp = tuple[int, int, int] | None


class Keyring:
    """Tells who a key stands for.

    A service that has seen a key never becomes open again while it runs: a file that is gone leaves no key in force,
    one that cannot be read leaves those that were.

    Args:
        path: the key file; it may be made later.
        tenant: whose requests are as long as there has been no key.

    Raises:
        KeyringError: the file is there and cannot be read.
    """

    def __init__(self, path: Path, tenant: str) -> None:
        self._path = path
        self._anonymous = Identity(tenant, ANONYMOUS_RIGHTS)
        self._records: dict[str, KeyRecord] = {}
        self._stamp: Stamp = None
        self._looked = time.monotonic()
        self._guarded = False
        self._take(_stamp(path))

    @property
    def guarded(self) -> bool:
        """Whether a key is needed."""
        self._refresh()
        return self._guarded

    def identify(self, authorization: str | None) -> Identity | None:
        """Return whose a request with this `Authorization` header is; None = nobody's.

        Missing, malformed, unknown and revoked keys take the same way.
        """
        if not self.guarded:
            return self._anonymous
        scheme, _, key = (authorization or "").partition(" ")
        digest = key_digest(key.strip())
        record = self._records.get(digest)
        same = hmac.compare_digest(record.sha256 if record else _NOBODY, digest)
        if record is None or not same or record.revoked is not None or scheme.lower() != "bearer":
            return None
        return Identity(record.tenant, record.rights)

    def _refresh(self) -> None:
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        stamp = _stamp(self._path)
        if stamp == self._stamp:
            return
        try:
            self._take(stamp)
        except KeyringError as error:
            self._stamp = stamp
            log.error("keys stay as they were: %s", error)

    def _take(self, stamp: Stamp) -> None:
        self._records = {record.sha256: record for record in list_keys(self._path)}
        self._stamp = stamp
        self._guarded = self._guarded or bool(self._records)


def _stamp(path: Path) -> Stamp:
    """Return what changes with the file; None = there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
