"""How a request is turned away: with a reason, and the time at which it would be let in."""

import math

REASONS = ("queue_full", "late", "denoise_busy", "decode_busy", "quota", "uploads_full")
"""Why a request may be refused."""


class RefusedError(Exception):
    """There is no room for a request now.

    Args:
        reason: one of `REASONS`.
        seconds: predicted time until it would be let in.

    Attributes:
        retry_after: the same in whole seconds, at least 1.
    """

    def __init__(self, reason: str, seconds: float) -> None:
        super().__init__("the request is refused for now")
        self.reason = reason
        self.retry_after = max(1, math.ceil(seconds))
