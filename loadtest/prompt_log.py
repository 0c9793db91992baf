"""Prompt logs: CSV, TSV, JSON Lines (plain or .gz) or Parquet, with or without times, users and seeds.

Only a `prompt` column is required (CSV and Parquet headers may be in any case); `text` and `caption` will do.
`time` (or `timestamp`, `created_at`) holds seconds or an ISO 8601 date; either every row has one or none has. `user`
(or `user_name`, `user_id`) and `kind` are carried along for the report. `size` (`WIDTHxHEIGHT`, or `width` and
`height`) and `steps` (or `step`, `num_inference_steps`) may be replayed, too. Other columns are ignored.
DiffusionDB's `metadata.parquet` is such a log as it is.

The service's own log is one too, if HEADSTART_LOG_PROMPTS was on when it was written (prompts are private, so it is
off by default): its lines that tell of a picture are the requests, without users and seeds; others are passed over.
"""

import csv
import gzip
import io
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

PROMPT_COLUMNS = ("prompt", "text", "caption")
TIME_COLUMNS = ("time", "timestamp", "created_at")
USER_COLUMNS = ("user", "user_name", "user_id")
STEPS_COLUMNS = ("steps", "step", "num_inference_steps")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES = (".jsonl", ".ndjson", ".log")
PARQUET = ".parquet"
MAX_SEED = 2**63 - 1
SERVICE_LINE = frozenset({"time", "level", "logger", "message"})
"""What every line of the service's own log has (`service/logs.py`)."""

Cells = Mapping[str, object]


class PromptLogError(Exception):
    """A prompt log cannot be used; the message names file, line and column."""

    def __init__(self, path: Path, message: str, *, line: int | None = None, column: str | None = None) -> None:
        where = str(path) if line is None else f"{path}:{line}"
        super().__init__(f"{where}: {message}" if column is None else f"{where}: column '{column}' {message}")


@dataclass(frozen=True, slots=True)
class LogRow:
    """One request of a log.

    Attributes:
        line: where it stands in its file, from 1.
        prompt: what was asked for.
        time: seconds since the log's first request; None in a log without times.
        user: who asked, if known.
        seed: the seed asked for, if any.
        kind: what the user did (retry, edit, …), if known.
        size: of the picture, `WIDTHxHEIGHT`, if known; as it stands there, unchecked.
        steps: denoising steps, if known; as it stands there, unchecked.
    """

    line: int
    prompt: str
    time: float | None = None
    user: str | None = None
    seed: int | None = None
    kind: str | None = None
    size: str | None = None
    steps: str | None = None


def read_prompt_log(
    path: Path, *, seed_column: str = "seed", limit: int | None = None, skip_empty: bool = False
) -> list[LogRow]:
    """Read a log, ordered by time where it has times.

    Args:
        path: `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.log`, each also with `.gz`; or `.parquet`, which needs pyarrow
            (`pip install 'headstart[parquet]'`).
        seed_column: the column that holds seeds; a log without it has no seeds.
        limit: read this many rows at most.
        skip_empty: pass over rows without a prompt, which real logs have; else they are an error.

    Raises:
        PromptLogError: the file cannot be read, or a row is bad.
    """
    try:
        with _source(path) as records:
            kept = ((line, cells) for line, cells in records if not skip_empty or _prompt(cells))
            rows = [_row(path, line, cells, seed_column.lower()) for line, cells in islice(kept, limit)]
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise PromptLogError(path, f"cannot be read: {error}") from None
    if not rows:
        raise PromptLogError(path, "holds no prompts")
    return _from_zero(path, rows)


@contextmanager
def _source(path: Path) -> Iterator[Iterator[tuple[int, Cells]]]:
    """Open a log and yield its rows."""
    if path.suffix == PARQUET:
        yield parquet_records(path)
        return
    with _open(path) as stream:
        yield _records(path, stream)


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return io.TextIOWrapper(gzip.open(path), encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


def _records(path: Path, stream: TextIO) -> Iterator[tuple[int, Cells]]:
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix in JSON_SUFFIXES:
        return _json_records(path, stream)
    if suffix in DELIMITERS:
        return _csv_records(path, stream, DELIMITERS[suffix])
    known = ", ".join((*DELIMITERS, *JSON_SUFFIXES))
    raise PromptLogError(path, f"unknown kind of log; expected one of {known} (.gz allowed), {PARQUET}")


def _json_records(path: Path, stream: Iterable[str]) -> Iterator[tuple[int, Cells]]:
    for line, text in enumerate(stream, start=1):
        if not text.strip():
            continue
        try:
            cells = json.loads(text)
        except ValueError as error:
            raise PromptLogError(path, f"is not JSON: {error}", line=line) from None
        if not isinstance(cells, dict):
            raise PromptLogError(path, "is not a JSON object", line=line)
        if not cells.keys() >= SERVICE_LINE:
            yield line, cells
        elif cells["message"] == "picture":
            if "prompt" not in cells:
                raise PromptLogError(
                    path, "was written without HEADSTART_LOG_PROMPTS, so it has no prompts", line=line
                )
            yield line, cells


def parquet_records(path: Path) -> Iterator[tuple[int, Cells]]:
    """Yield the rows of a Parquet file, read in pieces; only the columns that a log may have are read.

    Raises:
        PromptLogError: pyarrow is not installed, or the file is no Parquet log.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ModuleNotFoundError:
        raise PromptLogError(path, "needs pyarrow: pip install 'headstart[parquet]'") from None
    try:
        with parquet.ParquetFile(path) as file:
            names = {name: name.lower() for name in file.schema_arrow.names}
            if not set(PROMPT_COLUMNS) & set(names.values()):
                raise PromptLogError(path, "is missing from the file", column="prompt")
            line = 0
            for batch in file.iter_batches(columns=[name for name in names if _is_plain(file.schema_arrow, name)]):
                for row in batch.to_pylist():
                    line += 1
                    yield line, {names[name]: value for name, value in row.items()}
    except pyarrow.ArrowInvalid as error:
        raise PromptLogError(path, f"is not Parquet: {error}") from None


def _is_plain(schema: Any, name: str) -> bool:
    """Whether a column is text, a number or a moment; pictures and vectors may be large and are passed over."""
    from pyarrow import types

    kind = schema.field(name).type
    return bool(types.is_primitive(kind) or types.is_string(kind) or types.is_large_string(kind))


def _csv_records(path: Path, stream: Iterable[str], delimiter: str) -> Iterator[tuple[int, Cells]]:
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if not set(PROMPT_COLUMNS) & set(reader.fieldnames):
            raise PromptLogError(path, "is missing from the header", line=1, column="prompt")
        for cells in reader:
            if None in cells:
                raise PromptLogError(path, "has more cells than the header", line=reader.line_num)
            yield reader.line_num, cells
    except csv.Error as error:
        raise PromptLogError(path, f"is not CSV: {error}", line=reader.line_num) from None


def _row(path: Path, line: int, cells: Cells, seed_column: str) -> LogRow:
    prompt = _prompt(cells)
    if prompt is None:
        raise PromptLogError(path, "is missing or empty", line=line, column="prompt")
    return LogRow(
        line=line,
        prompt=prompt,
        time=_time(path, line, cells),
        user=_text(cells, USER_COLUMNS),
        seed=_seed(path, line, cells, seed_column),
        kind=_text(cells, ("kind",)),
        size=_size(cells),
        steps=_text(cells, STEPS_COLUMNS),
    )


def _prompt(cells: Cells) -> str | None:
    prompt = next((cells[name] for name in PROMPT_COLUMNS if name in cells), None)
    return prompt if isinstance(prompt, str) and prompt.strip() else None


def _text(cells: Cells, columns: tuple[str, ...]) -> str | None:
    return next((str(cells[name]) for name in columns if cells.get(name) not in (None, "")), None)


def _time(path: Path, line: int, cells: Cells) -> float | None:
    for column in TIME_COLUMNS:
        text = _text(cells, (column,))
        if text is None:
            continue
        seconds = _seconds(text)
        if seconds is None:
            raise PromptLogError(path, f"is neither seconds nor a date: {text!r}", line=line, column=column)
        return seconds
    return None


def _seconds(text: str) -> float | None:
    try:
        seconds = float(text)
        return seconds if math.isfinite(seconds) else None
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _seed(path: Path, line: int, cells: Cells, column: str) -> int | None:
    text = _text(cells, (column,))
    if text is None:
        return None
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise PromptLogError(path, f"is not a whole number from 0 to 2^63 - 1: {text!r}", line=line, column=column)
    return int(text)


def _size(cells: Cells) -> str | None:
    size, width, height = (_text(cells, (name,)) for name in ("size", "width", "height"))
    return size or (None if width is None or height is None else f"{width}x{height}")


def _from_zero(path: Path, rows: list[LogRow]) -> list[LogRow]:
    """Make times relative to the first request, in order; refuse a log where only some rows have one."""
    timed = [row for row in rows if row.time is not None]
    if not timed:
        return rows
    if len(timed) < len(rows):
        bare = next(row for row in rows if row.time is None)
        raise PromptLogError(path, "is missing, though other rows have a time", line=bare.line, column="time")
    ordered = sorted(rows, key=lambda row: row.time or 0.0)
    start = ordered[0].time or 0.0
    return [replace(row, time=(row.time or 0.0) - start) for row in ordered]
