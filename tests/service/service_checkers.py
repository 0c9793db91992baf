"""Safety checkers for tests; servers of tests load them by name."""

import os
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.safety import SafetyVerdict

STEER = "SAFETY_STEER"
"""Variable that names a file: its text is what the steered checker does."""


class Steered:
    """Does what a file says: passes all or all but a word, flags, breaks, hangs or answers nonsense."""

    def __init__(self) -> None:
        self._file = Path(os.environ[STEER])
        self.version = self._file.with_suffix(".version").read_text()

    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        order = self._file.read_text()
        if order == "break":
            raise RuntimeError("broken")
        if order == "exit":
            raise SystemExit(1)
        if order == "hang":
            time.sleep(3600)
        if order == "nonsense":
            return True  # type: ignore[return-value]
        if order == "other version":
            return SafetyVerdict(False, "another")
        assert image.ndim == 3
        if order == "pass all":
            return SafetyVerdict(False, self.version)
        return SafetyVerdict(order == "flag" or "forbidden" in (prompt or ""), self.version)


class Nameless:
    """Has no version."""

    def judge(self, image: NDArray[np.uint8], prompt: str | None) -> SafetyVerdict:
        return SafetyVerdict(False, "")


def broken() -> None:
    raise ValueError("cannot be made")
