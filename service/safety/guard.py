"""Asks the checker, and lets nothing pass that it has not let pass."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import numpy as np
from prometheus_client import Counter

from cache_store.selection import Selection
from cache_store.store import CacheStore
from cache_store.types import CacheUnavailable, StoredImage
from service.engine.base import ImageArray
from service.keys import text_hash
from service.logs import fields_of
from service.pictures import decode
from service.safety.backlog import seconds_until_room
from service.safety.base import (
    CheckerBehindError,
    PictureFlaggedError,
    PictureUncheckedError,
    SafetyChecker,
    SafetyVerdict,
)
from service.safety.worker import Worker
from service.tracing import stage

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 30.0
"""How long a picture waits for its verdict, those before it included."""
MOST_REMEMBERED = 4096
Where = Literal["drawn", "stored"]
OUTCOMES = ("passed", "flagged", "failed", "refused")
State = Literal["off", "ok", "busy", "unavailable"]
"""No checker; one that keeps up; one that is behind; one that hangs."""
Drawn = Callable[[], Sequence[float]]
"""Predicts when the pictures inside will be drawn, in seconds."""
_LOOK_SECONDS = 0.05


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
        self._worker = Worker(patience, lambda: _probed(checker))
        self._known: OrderedDict[tuple[str, str | None], bool] = OrderedDict()
        self._expected = 0

    @contextmanager
    def expecting(self, drawn: Drawn) -> Iterator[None]:
        """Hold a place before the checker for a picture that is about to be drawn.

        Args:
            drawn: see `Drawn`; this picture is not among those inside yet.

        Raises:
            CheckerBehindError: it hangs, or the verdict would come too late.
        """
        if (seconds := self._behind(drawn)) > 0:
            self._checks.labels("drawn", "refused").inc()
            raise CheckerBehindError(seconds)
        with self._place():
            yield

    def state(self, drawn: Drawn) -> State:
        """Return how the checker stands."""
        if self._checker is None:
            return "off"
        if self._worker.hangs:
            return "unavailable"
        return "busy" if self._behind(drawn) > 0 else "ok"

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
        # A verdict given without the prompt says nothing of the same picture with it.
        name = (hashlib.sha256(data).hexdigest(), None if prompt is None else text_hash(prompt))
        if name not in self._known:
            try:
                with self._place():
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
            judged = await self.pass_stored(image.data, prompt, image.safety_version)
            if judged and prompt is not None:  # otherwise it is to be judged again, with its prompt
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

    @contextmanager
    def _place(self) -> Iterator[None]:
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1

    def _behind(self, drawn: Drawn) -> float:
        """Return the seconds until a picture more will be judged in time; 0 = it would be now."""
        if self._checker is None:
            return 0.0
        if self._worker.hangs:
            return max(1.0, self._worker.patience_left)
        busy, each = self._worker.busy_seconds, self._worker.verdict_seconds
        before = self._expected - (busy > 0)
        if busy + (before + 1) * each <= self._patience:  # even if all came at once
            return 0.0
        inside = list(drawn())
        ready = [0.0] * max(0, before - len(inside)) + inside
        return seconds_until_room([*ready, max(ready, default=0.0)], busy, each, self._patience)

    def _remember(self, name: tuple[str, str | None], *, passed: bool) -> None:
        self._known[name] = passed
        if len(self._known) > MOST_REMEMBERED:
            self._known.popitem(last=False)

    async def _pass(
        self, checker: SafetyChecker, image: Callable[[], ImageArray], prompt: str | None, where: Where
    ) -> None:
        try:
            with stage("safety"):
                async with asyncio.timeout(self._patience):
                    verdict = await self._verdict(lambda: checker.judge(image(), prompt))
            flagged = _flagged(verdict, self.version)
        except Exception as error:  # whatever it is: without a verdict the picture stays here
            self._checks.labels(where, "failed").inc()
            log.error("a picture could not be checked for safety", extra=fields_of(error))
            raise PictureUncheckedError(drawn=where == "drawn") from None
        self._checks.labels(where, "flagged" if flagged else "passed").inc()
        if flagged:
            raise PictureFlaggedError

    async def _verdict(self, work: Callable[[], SafetyVerdict]) -> SafetyVerdict:
        given = self._worker.submit(work)
        # If the verdict before this one hangs, there is time left for this one.
        asyncio.get_running_loop().call_later(self._worker.patience_left + _LOOK_SECONDS, self._worker.look)
        return await asyncio.wrap_future(given)


def _probed(checker: SafetyChecker | None) -> SafetyVerdict:
    assert checker is not None
    return checker.judge(np.zeros((64, 64, 3), np.uint8), None)


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
