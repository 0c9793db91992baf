"""An index on disk: raw arrays, a checksum over all of them, written atomically and never unpickled.

The copy is made while the index lives on, so it may hold some of what came or went meanwhile. The mark beside it is
older than that: whoever loads it repeats all events after the mark, which puts it right.
"""

import hashlib
import json
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from cache_store.index.base import Shelf
from cache_store.index.flat import FlatShelf
from cache_store.index.ivf import IvfShelf, Training
from cache_store.index.partitioned import Growth, PartitionedIndex
from cache_store.index.thread import IndexThread, Workshop

_MAGIC = b"headstart index 1\n"
_DIGEST = 32
_BLOCK = 1 << 20
_TYPES = ("<i8", "<f4", "|u1")

Arrays = Mapping[str, np.ndarray[Any, Any]]


class BadSnapshot(Exception):
    """A snapshot cannot be used; the message says why."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a snapshot was made of.

    Attributes:
        store: identity of the catalogue.
        sequence: number of the last event that is in it for certain.
        stamp: of that event, for the number alone does not prove it is the same.
    """

    store: str
    sequence: int
    stamp: str


def pack(facts: Mapping[str, Any], arrays: Arrays) -> bytes:
    """Return one record: length, JSON, then the arrays' bytes."""
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()}
    head = json.dumps({**facts, "arrays": shapes}).encode()
    return b"".join([len(head).to_bytes(4, "little"), head, *(array.tobytes() for array in arrays.values())])


def _unpack(file: BinaryIO) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    facts = json.loads(file.read(int.from_bytes(file.read(4), "little")))
    arrays = {}
    for name, (dtype, shape) in facts["arrays"].items():
        if dtype not in _TYPES:
            raise BadSnapshot(f"arrays of {dtype}")
        count = int(np.prod(shape))
        data = file.read(count * np.dtype(dtype).itemsize)
        arrays[name] = np.frombuffer(data, dtype).reshape(shape)
    return facts, arrays


def _shelf_head(shelf: Shelf) -> bytes:
    if isinstance(shelf, IvfShelf):
        training = shelf.training
        facts = {"bound": training.bound, "size": training.size, "probes": training.probes}
        return pack({"shelf": "ivf", **facts}, {"centroids": training.centroids})
    return pack({"shelf": "flat", "dimension": shelf.dimension}, {})


def _dump(shelf: Shelf) -> Iterator[bytes]:
    if isinstance(shelf, IvfShelf):
        for start, sizes, ids, codes in shelf.lists():
            yield pack({"start": start}, {"sizes": sizes, "ids": ids, "codes": codes})
        rest = shelf.aside_pieces()
    else:
        rest = shelf.pieces()
    for ids, rows in rest:
        yield pack({}, {"ids": ids, "rows": rows})


async def _records(index: PartitionedIndex, thread: IndexThread) -> AsyncIterator[bytes]:
    for partition in await thread.run(index.partitions):
        shelf = await thread.run(index.shelf, partition)
        if shelf is None:
            continue
        yield pack({"partition": partition}, {})
        yield _shelf_head(shelf)
        records = _dump(shelf)
        while (record := await thread.copy(next, records, None)) is not None:
            yield record
    yield pack({"end": True}, {})


class _Draft:
    """A file in the making, with its digest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.with_suffix(".new").open("wb")
        self._digest = hashlib.blake2b(digest_size=_DIGEST)

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self._file.write(data)

    def publish(self) -> None:
        self._file.write(self._digest.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._path.with_suffix(".new").replace(self._path)

    def discard(self) -> None:
        self._file.close()
        self._path.with_suffix(".new").unlink(missing_ok=True)


async def save(
    index: PartitionedIndex, origin: Origin, path: Path, *, thread: IndexThread, workshop: Workshop
) -> None:
    """Write `index`, owned by `thread`, to `path` while it stays in use. Raises OSError."""
    draft = await workshop.run(_Draft, path)
    try:
        await workshop.run(draft.write, _MAGIC + pack(asdict(origin), {}))
        async for record in _records(index, thread):
            await workshop.run(draft.write, record)
        await workshop.run(draft.publish)
    except BaseException:
        draft.discard()
        raise


def load(path: Path, growth: Growth | None = None) -> tuple[PartitionedIndex, Origin]:
    """Return the index at `path` and what it was made of.

    Raises:
        BadSnapshot: there is none, or it is damaged.
    """
    try:
        with path.open("rb") as file:
            _check(file)
            return _read(file, growth)
    except OSError as error:
        raise BadSnapshot(str(error.strerror)) from error
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise BadSnapshot(f"unreadable: {type(error).__name__}") from error


def _check(file: BinaryIO) -> None:
    left = os.fstat(file.fileno()).st_size - _DIGEST
    digest = hashlib.blake2b(digest_size=_DIGEST)
    while left > 0:
        block = file.read(min(_BLOCK, left))
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise BadSnapshot("its checksum is wrong")
    file.seek(0)
    if file.read(len(_MAGIC)) != _MAGIC:
        raise BadSnapshot("another version")


def _read(file: BinaryIO, growth: Growth | None) -> tuple[PartitionedIndex, Origin]:
    head, _ = _unpack(file)
    origin = Origin(str(head["store"]), int(head["sequence"]), str(head["stamp"]))
    index = PartitionedIndex(growth)
    facts, arrays = _unpack(file)
    while "end" not in facts:
        partition = str(facts["partition"])
        shelf = _empty_shelf(*_unpack(file))
        facts, arrays = _unpack(file)
        while "partition" not in facts and "end" not in facts:
            if isinstance(shelf, IvfShelf) and "start" in facts:
                shelf.load_lists(int(facts["start"]), arrays["sizes"], arrays["ids"], arrays["codes"])
            else:
                shelf.put(arrays["ids"], arrays["rows"])
            facts, arrays = _unpack(file)
        if isinstance(shelf, IvfShelf):
            shelf.loaded()
        index.place(partition, shelf)
    return index, origin


def _empty_shelf(facts: Mapping[str, Any], arrays: Arrays) -> FlatShelf | IvfShelf:
    if facts["shelf"] == "flat":
        return FlatShelf(int(facts["dimension"]))
    centroids = np.array(arrays["centroids"], np.float32)
    return IvfShelf(Training(centroids, float(facts["bound"]), int(facts["size"]), int(facts["probes"])))
