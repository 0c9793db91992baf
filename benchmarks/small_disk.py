"""A small disk of one's own, that can be full or read-only."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_FILLER = "filler"


class NoDiskError(Exception):
    """A small disk cannot be mounted here; the message says why."""


@dataclass(frozen=True)
class Disk:
    """A small disk mounted at `folder`."""

    folder: Path

    def fill(self) -> None:
        """Leave no room on it."""
        with (self.folder / _FILLER).open("wb", buffering=0) as file:
            for size in (2**20, 2**10, 1):
                try:
                    while True:
                        file.write(b"x" * size)
                except OSError:
                    continue

    def clear(self) -> None:
        """Take away what filled it."""
        (self.folder / _FILLER).unlink()

    def remount(self, how: str) -> None:
        """Make it "ro" or "rw"."""
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Disk]:
    """Mount a disk of so many MiB at an empty folder, and unmount it afterwards.

    Raises:
        NoDiskError: that needs more rights than there are.
    """
    if os.geteuid() != 0:
        raise NoDiskError("only root may mount a small disk")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        raise NoDiskError(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)
