"""The contract of a safety checker."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class SafetyCheckerError(Exception):
    """There is no such checker, or it cannot be loaded; the message is one clear line."""


class PictureFlaggedError(Exception):
    """The checker says that a picture must not be shown."""


class PictureUncheckedError(Exception):
    """The checker could not say whether a picture may be shown, so it is not."""


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
            prompt: what was to be drawn; None where that is not known any more.
        """
