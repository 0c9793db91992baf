"""What every training stage shares: a wall-clock budget, checkpoints, a log and a progress bar."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

RUNS = Path(__file__).parent / "runs"
"""Where pools, checkpoints and logs go; not part of the repository."""
MODELS = Path(__file__).parent.parent / "models"
"""Where the trained models go; part of the repository."""
UNET_FOLDER = MODELS / "scenes-unet"
DIT_FOLDER = MODELS / "scenes-dit"
JUDGE_FOLDER = MODELS / "scenes-judge"


def rate_at(progress: float, warmup: float) -> float:
    """Learning-rate share at a share of the budget: linear warmup, then linear decay to zero."""
    return min(1.0, progress / warmup + 1e-3) * min(1.0, (1.0 - progress) / (1.0 - warmup))


class Run:
    """One stage of training that ends when its minutes are spent, and may be interrupted.

    Args:
        name: the stage; its files are ``training/runs/<name>.pt`` and ``<name>.json``.
        minutes: wall-clock budget, summed over all resumed parts.
        save_every: seconds between checkpoints.
    """

    def __init__(self, name: str, minutes: float, save_every: float = 120.0) -> None:
        RUNS.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.minutes = minutes
        self.checkpoint = RUNS / f"{name}.pt"
        self.records: list[dict[str, float]] = []
        self.step = 0
        self._spent = 0.0
        self._since = time.monotonic()
        self._saved = self._since
        self._save_every = save_every

    @property
    def seconds(self) -> float:
        """Seconds of training so far, earlier parts included."""
        return self._spent + time.monotonic() - self._since

    @property
    def progress(self) -> float:
        """Share of the budget that is spent, 0 to 1."""
        return min(1.0, self.seconds / (60 * self.minutes))

    def rate(self, warmup: float = 0.03) -> float:
        """Learning-rate share now, see ``rate_at``."""
        return rate_at(self.progress, warmup)

    def restore(self) -> dict[str, Any] | None:
        """The last checkpoint's state, or None when the stage starts afresh."""
        if not self.checkpoint.exists():
            return None
        state: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        self.step, self._spent = int(state["step"]), float(state["seconds"])
        self.records = list(state["records"])
        self._since = self._saved = time.monotonic()
        return state

    def steps(self) -> Iterator[int]:
        """Count steps until the budget is spent, with a progress bar."""
        self._since = self._saved = time.monotonic()
        with tqdm(total=100.0, desc=self.name, unit="%", mininterval=10) as bar:
            bar.update(100 * self.progress)
            while self.progress < 1.0:
                yield self.step
                self.step += 1
                bar.update(100 * self.progress - bar.n)
                if self.records:
                    bar.set_postfix(self.records[-1], refresh=False)

    def log(self, **figures: float) -> None:
        """Add one record to the stage's log and write the log."""
        self.records.append({"step": self.step, "seconds": round(self.seconds, 1), **figures})
        path = RUNS / f"{self.name}.json"
        path.write_text(json.dumps({"minutes": self.minutes, "records": self.records}))

    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return time.monotonic() - self._saved > self._save_every

    def save(self, **state: Any) -> None:
        """Write a checkpoint; a crash in the middle leaves the old one whole."""
        facts = {"step": self.step, "seconds": self.seconds, "records": self.records}
        draft = self.checkpoint.with_suffix(".draft")
        torch.save({**state, **facts}, draft)
        os.replace(draft, self.checkpoint)
        self._saved = time.monotonic()
