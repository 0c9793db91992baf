"""LoRA files (Hu et al. 2021, arXiv 2106.09685): which there are, and reading one that is still the one asked for."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from service.engine.base import Lora

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", re.ASCII)
"""What a LoRA may be called: no separator and no leading dot, so that no name leads out of the folder."""
SUFFIX = ".safetensors"
UNFIT = "lora-unfit"
CHANGED = "lora-changed"


class LoraError(Exception):
    """A LoRA cannot be used; the message is safe to show to a client.

    Attributes:
        code: UNFIT (the file is not one for this model) or CHANGED (it is no longer what the request was signed for).
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


MAX_LORAS = 8
"""LoRAs held at once, if nothing else is asked for."""


@dataclass(frozen=True, slots=True)
class LoraShelf:
    """Where the LoRA files lie, and how many of them may be loaded at once.

    Attributes:
        folder: holds `<name>.safetensors`; None = there are none.
        limit: most LoRAs loaded; the least recently used goes first.
    """

    folder: Path | None = None
    limit: int = MAX_LORAS

    def path(self, name: str) -> Path | None:
        """Return where the LoRA of that name would lie; None without a folder or for what is no name."""
        if self.folder is None or NAME.fullmatch(name) is None:
            return None
        return self.folder / f"{name}{SUFFIX}"

    def names(self) -> list[str]:
        """Return the names of the LoRAs that are there now, sorted; none where the folder cannot be read."""
        if self.folder is None:
            return []
        try:
            found = [path for path in self.folder.iterdir() if path.suffix == SUFFIX and path.is_file()]
        except OSError:
            return []
        return sorted(path.stem for path in found if NAME.fullmatch(path.stem))

    def read(self, lora: Lora) -> bytes:
        """Return the file's content, verified: what is hashed is what is returned.

        Raises:
            LoraError: the file is gone, or another one by now.
        """
        path = self.path(lora.name)
        try:
            content = path.read_bytes() if path is not None else b""
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != lora.digest:
            raise LoraError(CHANGED, f"the file of LoRA {lora.name} was replaced or removed meanwhile; try again")
        return content


NO_LORAS = LoraShelf()
