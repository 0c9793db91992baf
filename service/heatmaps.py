"""Which part of a picture speaks for a prompt, drawn by the service's judge while nobody waits for a picture."""

import asyncio
from typing import Literal

from cache_store.generations import GenerationRecord
from cache_store.store import CacheStore
from service.judges import JudgeError, SharedJudge
from service.judges.heatmap import Explainer, HeatmapError
from service.judges.sheet import overlaid
from service.pictures import decode, encode
from service.provenance import Provenance
from service.replay import TextNeededError
from service.safety import Guard
from service.turnstile import Turnstile

Of = Literal["result", "source"]

MOST_WAITING = 8
"""Heat maps asked for at the same time, the one being drawn included."""
WAIT_SECONDS = 10.0
"""How long one may wait for a moment without pictures in work."""


class NoHeatmapError(Exception):
    """There is no heat map; the message is for the client.

    Attributes:
        code: "no_judge", "judge_unavailable", "judge_without_maps", "unexplainable", "no_source", "picture_gone" or
            "busy".
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Heatmaps:
    """Draws heat maps of answered pictures, one at a time and only while no picture is in work.

    Args:
        judge: looks at the pictures; None = there is none.
        store: holds them.
        turnstile: knows whether a client waits for a picture.
        guard: lets pictures pass.
        wait_seconds: see `WAIT_SECONDS`.
    """

    def __init__(
        self,
        judge: SharedJudge | None,
        store: CacheStore,
        turnstile: Turnstile,
        guard: Guard,
        *,
        wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._judge = judge
        self._store = store
        self._turnstile = turnstile
        self._guard = guard
        self._wait_seconds = wait_seconds
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def draw(self, record: GenerationRecord, made: Provenance, of: Of, text: str | None) -> bytes:
        """Return a PNG: the picture in grey, and over it, black to white, what speaks for a prompt.

        Args:
            record: of the generation.
            made: what it says.
            of: the picture that was answered, or the one whose state it was resumed from.
            text: what to look for; None = what was to be drawn.

        Raises:
            NoHeatmapError: there is none, or not now.
            TextNeededError: the record holds no text.
            CacheUnavailable: the store cannot answer now.
        """
        if self._judge is None:
            raise NoHeatmapError("no_judge", "this service has no judge that could look at pictures")
        png = await self._picture(record, made, of)
        prompt = made.prompt if text is None else text
        if prompt is None:
            raise TextNeededError("text", "text: this generation was not to be remembered; say what to look for")
        return await self._in_turn(self._judge, png, prompt, of)

    async def _picture(self, record: GenerationRecord, made: Provenance, of: Of) -> bytes:
        entry_id = made.repeats or record.entry_id
        if of == "source":
            entered = None if made.hidden else made.entered
            entry_id = made.repeats if entered is None else entered.entry_id
            if entry_id is None:
                raise NoHeatmapError("no_source", "this picture was drawn in full: no other one is its source")
        stored = None
        if entry_id is not None:
            stored = await self._guard.entry_image(self._store, entry_id, record.tenant)
        if stored is None:
            raise NoHeatmapError("picture_gone", "the picture is not kept, or not any more")
        return stored.data

    async def _in_turn(self, judge: SharedJudge, png: bytes, prompt: str, of: Of) -> bytes:
        if self._waiting >= MOST_WAITING:
            raise _busy()
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_seconds) as waiting, self._turn:
                await self._turnstile.until_empty()
                waiting.reschedule(None)
                return await asyncio.to_thread(_drawn, judge, png, prompt, of)
        except TimeoutError:
            raise _busy() from None
        finally:
            self._waiting -= 1


def _drawn(shared: SharedJudge, png: bytes, prompt: str, of: Of) -> bytes:
    try:
        with shared.lent() as judge:
            if not isinstance(judge, Explainer):
                raise NoHeatmapError("judge_without_maps", "the judge of this service cannot show where it looks")
            picture = decode(png)
            made = judge.match_map(picture, prompt) if of == "source" else judge.answer_map(picture, prompt)
    except JudgeError:
        raise NoHeatmapError("judge_unavailable", "the judge of this service cannot be loaded") from None
    except HeatmapError:
        raise NoHeatmapError("unexplainable", "the judge cannot read this text, or this picture") from None
    return encode(overlaid(picture, made))


def _busy() -> NoHeatmapError:
    return NoHeatmapError("busy", "pictures are being drawn; heat maps wait for a quiet moment")
