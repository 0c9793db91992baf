"""How many rows of a joint batch fit into the device's memory: learned from what earlier forwards took."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch

# Share of the free memory a forward may plan with; the rest is for fragments and for the decoder.
USABLE = 0.9
Size = tuple[int, int]
"""Width and height of a picture, pixels."""


class Meter(Protocol):
    """Watches a device's memory, in bytes."""

    def start(self) -> None:
        """Begin to watch for a peak."""

    def peak(self) -> int:
        """Return the most that was in use since `start`, above what was in use then."""

    def free(self) -> int:
        """Return what could be allocated now."""


class CudaMeter:
    """Memory of a CUDA device, what torch's allocator keeps for reuse counted as free."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._base = 0

    def start(self) -> None:
        """Begin to watch for a peak."""
        torch.cuda.reset_peak_memory_stats(self._device)
        self._base = torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        """Return the most that was in use since `start`, above what was in use then."""
        return int(torch.cuda.max_memory_allocated(self._device)) - self._base

    def free(self) -> int:
        """Return what could be allocated now."""
        kept = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return int(torch.cuda.mem_get_info(self._device)[0]) + int(kept)


class PeakMemory:
    """Per size of picture, the memory one network row takes in a forward.

    The forward with the most rows seen so far speaks for its size: what is fixed in a forward weighs least there.

    Args:
        meter: of the device; None where memory is not watched (CPUs), and then nothing is limited.
    """

    def __init__(self, meter: Meter | None) -> None:
        self._meter = meter
        self._seen: dict[Size, tuple[int, int]] = {}

    def most(self, size: Size) -> int | None:
        """Return how many rows of a size should fit now, at least 1; None = no bound known."""
        if self._meter is None or size not in self._seen:
            return None
        rows, peak = self._seen[size]
        return max(1, int(USABLE * self._meter.free() * rows / max(peak, 1)))

    @contextmanager
    def watch(self, size: Size, rows: int) -> Iterator[None]:
        """Learn from the forward inside; one that fails teaches nothing, nor does one said to have no rows."""
        if self._meter is None or not rows:
            yield
            return
        self._meter.start()
        yield
        peak = self._meter.peak()
        known, most = self._seen.get(size, (0, 0))
        if rows > known or (rows == known and peak > most):
            self._seen[size] = (rows, peak)


def meter_of(device: torch.device) -> Meter | None:
    """Return what watches a device's memory."""
    return CudaMeter(device) if device.type == "cuda" else None
