"""A name for the weights: two models with the same digest draw the same pictures."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

# Files up to this size are hashed whole; larger ones by size, head and evenly spread samples, which every real
# fine-tune changes, in milliseconds instead of minutes.
WHOLE_FILE_BYTES = 256 * 2**20
HEAD_BYTES = 2**20
SAMPLE_BYTES = 4096
SAMPLES = 256
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".json", ".txt", ".model")


def weights_digest(folder: Path) -> str:
    """Hash everything in a diffusers model folder that decides its pictures.

    Covers `model_index.json` and, of every component it names, configs, tokenizer files and weights.

    Args:
        folder: the model in diffusers' layout.

    Returns:
        SHA-256, 64 hex digits.
    """
    digest = hashlib.sha256()
    for path in _deciding_files(folder):
        digest.update(f"\n{path.relative_to(folder).as_posix()}:{path.stat().st_size}\n".encode())
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _deciding_files(folder: Path) -> list[Path]:
    index = folder / "model_index.json"
    parts = [name for name in json.loads(index.read_text()) if not name.startswith("_")]
    found = [path for part in sorted(parts) for path in sorted((folder / part).rglob("*"))]
    return [index, *(path for path in found if path.is_file() and path.suffix in WEIGHT_SUFFIXES)]


def _blocks(path: Path) -> Iterator[bytes]:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= WHOLE_FILE_BYTES:
            while block := file.read(2**20):
                yield block
            return
        yield file.read(HEAD_BYTES)
        for i in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * (i + 1) // SAMPLES)
            yield file.read(SAMPLE_BYTES)
