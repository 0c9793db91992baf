"""Asks the checker, and lets nothing pass that it has not let pass."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from threading import Thread
from typing import Literal

from prometheus_client import Counter

from cache_store.selection import Selection
from cache_store.store import CacheStore
from cache_store.types import CacheUnavailable, StoredImage
from service.engine.base import ImageArray
from service.logs import fields_of
from service.pictures import decode
from service.safety.base import PictureFlaggedError, PictureUncheckedError, SafetyChecker, SafetyVerdict
from service.tracing import stage

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""How long a picture waits for its verdict, those before it included."""
MOST_REMEMBERED = 4096
Where = Literal["drawn", "stored"]
OUTCOMES = ("passed", "flagged", "failed")


class Guard:
    """Stands before every answer that holds a picture; without a checker everything passes.

    Stored pictures carry the version of the checker that has let them pass, empty = none has. Those of the version in
    force pass; others are judged anew.

    Args:
        checker: judges; None = there is none.
        checks: counts checks by `Where` and outcome.
        patience: see `PATIENCE_SECONDS`.

    Attributes:
        version: of the checker; empty = there is none.
    """

    def __init__(self, checker: SafetyChecker | None, checks: Counter, *, patience: float = PATIENCE_SECONDS) -> None:
        self.version = "" if checker is None else checker.version
        self._checker = checker
        self._checks = checks
        self._patience = patience
        self._worker = _Worker()
        self._known: OrderedDict[str, bool] = OrderedDict()

    async def pass_drawn(self, image: ImageArray, prompt: str | None) -> None:
        """Let a picture pass that was just drawn.

        Raises:
            PictureFlaggedError: it must not be shown.
            PictureUncheckedError: the checker did not say.
        """
        if self._checker is not None:
            await self._pass(self._checker, lambda: image, prompt, "drawn")

    async def pass_stored(self, data: bytes, prompt: str | None, version: str) -> bool:
        """Let an encoded picture pass that was drawn before; return whether it was judged anew.

        Args:
            data: PNG, JPEG or WebP.
            prompt: see `SafetyChecker.judge`.
            version: of the checker that has let it pass.

        Raises:
            PictureFlaggedError: it must not be shown.
            PictureUncheckedError: the checker did not say.
        """
        if self._checker is None or version == self.version:
            return False
        name = hashlib.sha256(data).hexdigest()
        if name not in self._known:
            try:
                await self._pass(self._checker, lambda: decode(data), prompt, "stored")
            except PictureFlaggedError:
                self._remember(name, passed=False)
                raise
            self._remember(name, passed=True)
        elif not self._known[name]:
            raise PictureFlaggedError
        return True

    async def pass_entry(
        self, store: CacheStore, entry_id: int, tenant: str, image: StoredImage, prompt: str | None
    ) -> None:
        """Let the picture of an entry pass; what is flagged now is forgotten with its states.

        Raises:
            PictureFlaggedError: it must not be shown.
            PictureUncheckedError: the checker did not say.
        """
        try:
            if await self.pass_stored(image.data, prompt, image.safety_version):
                await _quietly(store.note_safety(entry_id, self.version))
        except PictureFlaggedError:
            await _quietly(store.forget(Selection(tenant=tenant, entry_ids=(entry_id,))))
            raise

    async def entry_image(self, store: CacheStore, entry_id: int, tenant: str) -> StoredImage | None:
        """Return the picture of `tenant`'s entry, if there is one and it may be shown; raises as `pass_entry`."""
        image = await store.image(entry_id, tenant)
        if image is None or self._checker is None or image.safety_version == self.version:
            return image
        entry = await store.entry(entry_id, tenant)
        await self.pass_entry(store, entry_id, tenant, image, None if entry is None else entry.prompt)
        return image

    def _remember(self, name: str, *, passed: bool) -> None:
        self._known[name] = passed
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _pass(
        self, checker: SafetyChecker, image: Callable[[], ImageArray], prompt: str | None, where: Where
    ) -> None:
        try:
            with stage("safety"):
                async with asyncio.timeout(self._patience):
                    verdict = await asyncio.wrap_future(self._worker.submit(lambda: checker.judge(image(), prompt)))
            flagged = _flagged(verdict, self.version)
        except Exception as error:  # whatever it is: without a verdict the picture stays here
            self._checks.labels(where, "failed").inc()
            log.error("a picture could not be checked for safety", extra=fields_of(error))
            raise PictureUncheckedError from None
        self._checks.labels(where, "flagged" if flagged else "passed").inc()
        if flagged:
            raise PictureFlaggedError


def _flagged(verdict: SafetyVerdict, version: str) -> bool:
    """Return what a verdict says, if it is one; checkers are other people's code."""
    known = isinstance(verdict, SafetyVerdict) and isinstance(verdict.flagged, bool)
    if not known or verdict.version != version:
        raise TypeError("no verdict of the version in force")
    return verdict.flagged


async def _quietly(work: object) -> None:
    """Do what may fail without harm: a picture of another version is judged again next time."""
    try:
        await work  # type: ignore[misc]
    except CacheUnavailable:
        log.debug("a verdict was not written down: the store is unavailable")


class _Worker:
    """One thread for a checker, made when it is first needed; one that hangs keeps no process from ending."""

    def __init__(self) -> None:
        self._errands: SimpleQueue[tuple[Future[SafetyVerdict], Callable[[], SafetyVerdict]]] = SimpleQueue()
        self._thread: Thread | None = None

    def submit(self, work: Callable[[], SafetyVerdict]) -> Future[SafetyVerdict]:
        """Do `work` behind what was submitted before; what is cancelled before its turn is left out."""
        if self._thread is None:
            self._thread = Thread(target=self._run, name="safety", daemon=True)
            self._thread.start()
        future: Future[SafetyVerdict] = Future()
        self._errands.put((future, work))
        return future

    def _run(self) -> None:
        while True:
            future, work = self._errands.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:  # a checker that exits takes nothing with it
                future.set_exception(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))
