"""The contract of a safety checker."""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SafetyCheckerError(Exception):
    """There is no such checker, or it cannot be loaded; the message is one clear line."""


class PictureFlaggedError(Exception):
    """The checker says that a picture must not be shown."""


class PictureUncheckedError(Exception):
    """The checker could not say whether a picture may be shown, so it is not.

    Attributes:
        drawn: whether it was drawn for this; asking again would draw it again.
    """

    def __init__(self, *, drawn: bool) -> None:
        super().__init__("the checker did not say")
        self.drawn = drawn


class CheckerBehindError(Exception):
    """A picture is not drawn: the checker hangs, or has so much to judge that its verdict would come too late.

    Attributes:
        retry_after: predicted time until it would be drawn, in whole seconds, at least 1.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__("the checker is behind")
        self.retry_after = max(1, math.ceil(seconds))


@dataclass(frozen=True, slots=True)
class SafetyVerdict:
    """What a checker says of a picture.

    Attributes:
        flagged: whether it must not be shown.
        version: of the checker that says so.
    """

    flagged: bool
    version: str


class SafetyChecker(Protocol):
    """Looks at finished pictures; called by one thread at a time, never by the event loop.

    A call that takes longer than `HEADSTART_SAFETY_SECONDS` is given up: from then on others are made beside it, from
    another thread, the first of them with a small black picture.

    Whatever it raises, and whatever it returns that is not a verdict of its own version, means that the picture is
    not shown.

    Attributes:
        version: names its weights, thresholds and code: verdicts of another version are not believed.
    """

    version: str

    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        """Return a verdict.

        Args:
            image: [H, W, 3] in RGB.
            prompt: what was to be drawn; None where that is not known any more. Who judges by it should flag those.
        """
