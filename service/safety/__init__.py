"""Whether a picture may be shown: a checker of the operator's choice, asked before every answer that holds one."""

from service.safety.base import (
    CheckerBehindError,
    PictureFlaggedError,
    PictureUncheckedError,
    SafetyChecker,
    SafetyCheckerError,
    SafetyVerdict,
)
from service.safety.guard import Guard
from service.safety.loading import load_checker

__all__ = [
    "CheckerBehindError",
    "Guard",
    "PictureFlaggedError",
    "PictureUncheckedError",
    "SafetyChecker",
    "SafetyCheckerError",
    "SafetyVerdict",
    "load_checker",
]
