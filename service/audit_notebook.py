"""Keeps what the audit has learnt, in a small file of the data folder."""

import asyncio
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from policies.matching.audit import AuditController
from policies.matching.table import ThresholdRow

log = logging.getLogger(__name__)


class AuditNotebook:
    """A JSON file, good for one model, table, embedder and judge only: with any other the audit begins anew.

    Args:
        path: of the file.
        key: names what the audit's findings hold for, see `notebook_key`.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path = path
        self._key = key
        self._turn = asyncio.Lock()

    def read(self, controller: AuditController) -> None:
        """Let the controller go on from the file; from nothing where that is not possible."""
        try:
            found = json.loads(self._path.read_text("utf-8"))
            if found["key"] != self._key:
                log.info("the audit begins anew: model, table or judge is another")
                return
            controller.restore(found["state"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the audit begins anew: %s cannot be used (%s)", self._path.name, type(error).__name__)

    async def write(self, controller: AuditController) -> None:
        """Write the controller's state, atomically; a file that cannot be written is no error of an audit.

        Audits and orders write: one at a time, and each what holds when its turn comes, so that an order to forget is
        never undone by an audit that was being written down.
        """
        async with self._turn:
            text = json.dumps({"key": self._key, "state": controller.to_json()}, allow_nan=False)
            try:
                await asyncio.to_thread(self._replace, text)
            except OSError as error:
                log.warning("the audit's findings are not kept: %s", error.strerror)

    def _replace(self, text: str) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(self._path.name + ".part")
        draft.write_text(text + "\n", "utf-8")
        draft.replace(self._path)


def notebook_key(rows: Sequence[ThresholdRow], names: Mapping[str, str]) -> str:
    """Return a digest of the bounds audited and of everything else by name that findings depend on."""
    bounds = [[row.skip, row.min_similarity, str(row.max_divergence)] for row in rows]
    text = json.dumps([bounds, sorted(names.items())])
    return hashlib.sha256(text.encode()).hexdigest()[:32]
