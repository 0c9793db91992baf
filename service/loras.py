"""Which LoRA a name stands for now: the files may come, go and change while the service runs."""

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from service.engine.lora import LoraShelf
from service.logs import fields_of

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int, int]


class LoraFiles:
    """Digests of the LoRA files; each is computed once per content.

    Args:
        shelf: where the files lie.
    """

    def __init__(self, shelf: LoraShelf) -> None:
        self._shelf = shelf
        self._known: dict[str, tuple[Stamp, str]] = {}
        self._one_at_a_time = asyncio.Lock()

    async def digests(self, names: Sequence[str]) -> list[str | None]:
        """Return the SHA-256 of each LoRA's file as it is now, None where there is none to be read."""
        if not names:
            return []
        async with self._one_at_a_time:
            return await asyncio.to_thread(lambda: [self._digest(name) for name in names])

    async def names(self) -> list[str]:
        """Return the names of the LoRAs that are there now, sorted."""
        return await asyncio.to_thread(self._shelf.names)

    def _digest(self, name: str) -> str | None:
        path = self._shelf.path(name)
        try:
            if path is None or not path.is_file():
                return None
            stamp = _stamp(path)
            if name not in self._known or self._known[name][0] != stamp:
                with path.open("rb") as file:
                    self._known[name] = stamp, hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            log.warning("LoRA %s cannot be read", name, extra=fields_of(error))
            return None
        return self._known[name][1]


def _stamp(path: Path) -> Stamp:
    """Return what no change of a file leaves as it was."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
