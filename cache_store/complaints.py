"""What goes wrong over and over is told at once, and from then on once a minute, with how often it did."""

import logging
import time
from dataclasses import dataclass

_SECONDS = 60.0
# Texts that are told apart; beyond them all others count as one.
_MOST = 32
_OTHERS = "…"


@dataclass
class _Repeats:
    """What came since a text was last logged: when that was, the latest text, how often it came."""

    since: float
    text: str
    count: int = 0


class Complaints:
    """Logs a text when it is new, and repeats of it by number.

    Args:
        log: where to.
        seconds: between two lines of one text.
    """

    def __init__(self, log: logging.Logger, seconds: float = _SECONDS) -> None:
        self._log = log
        self._seconds = seconds
        self._told: dict[str, _Repeats] = {}

    def note(self, text: str) -> None:
        """Log a text, or count it where the same was logged a short time ago."""
        kind = text if text in self._told or len(self._told) < _MOST else _OTHERS
        if kind not in self._told:
            self._log.error("%s", text)
            self._told[kind] = _Repeats(time.monotonic(), text)
            return
        repeats = self._told[kind]
        repeats.text, repeats.count = text, repeats.count + 1

    def tell(self) -> None:
        """Log what was counted and is due; to be called every now and then."""
        now = time.monotonic()
        for kind, repeats in list(self._told.items()):
            seconds = now - repeats.since
            if seconds < self._seconds:
                continue
            if not repeats.count:
                del self._told[kind]
                continue
            self._log.error("%s (%d times more in %.0f s)", repeats.text, repeats.count, seconds)
            self._told[kind] = _Repeats(now, repeats.text)
