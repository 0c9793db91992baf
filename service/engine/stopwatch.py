"""How long device work takes."""

import time
from typing import Self

import torch
from torch import Tensor


class Stopwatch:
    """Wall-clock seconds of device work; waits for the device only where there is one.

    Args:
        on: a tensor of that device.
    """

    def __init__(self, on: Tensor) -> None:
        self._device = on.device
        self.seconds = 0.0

    def __enter__(self) -> Self:
        self._wait()
        self._started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._started

    def _wait(self) -> None:
        if self._device.type == "cuda":
            # Not the whole device: the decoder has a stream of its own there.
            torch.cuda.current_stream(self._device).synchronize()
