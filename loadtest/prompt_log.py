"""Prompt logs: CSV, TSV or JSON Lines (plain or .gz), with or without times, users and seeds.

Only a `prompt` column is required (CSV headers may be in any case). `time` (or `timestamp`) holds seconds or an
ISO 8601 date; either every row has one or none has. `user` and `kind` are carried along for the report. Other columns
are ignored.
"""

import csv
import gzip
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import TextIO

TIME_COLUMNS = ("time", "timestamp")
USER_COLUMNS = ("user", "user_id")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_SUFFIXES = (".jsonl", ".ndjson")
MAX_SEED = 2**63 - 1

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
    """

    line: int
    prompt: str
    time: float | None = None
    user: str | None = None
    seed: int | None = None
    kind: str | None = None


def read_prompt_log(path: Path, *, seed_column: str = "seed", limit: int | None = None) -> list[LogRow]:
    """Read a log, ordered by time where it has times.

    Args:
        path: `.csv`, `.tsv`, `.jsonl` or `.ndjson`, each also with `.gz`.
        seed_column: the column that holds seeds; a log without it has no seeds.
        limit: read this many rows at most.

    Raises:
        PromptLogError: the file cannot be read, or a row is bad.
    """
    try:
        with _open(path) as stream:
            rows = [
                _row(path, line, cells, seed_column.lower()) for line, cells in islice(_records(path, stream), limit)
            ]
    except (OSError, UnicodeDecodeError, EOFError) as error:
        raise PromptLogError(path, f"cannot be read: {error}") from None
    if not rows:
        raise PromptLogError(path, "holds no prompts")
    return _from_zero(path, rows)


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
    raise PromptLogError(path, f"unknown kind of log; expected one of {known} (.gz allowed)")


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
        yield line, cells


def _csv_records(path: Path, stream: Iterable[str], delimiter: str) -> Iterator[tuple[int, Cells]]:
    reader = csv.DictReader(stream, delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or ()]
        if "prompt" not in reader.fieldnames:
            raise PromptLogError(path, "is missing from the header", line=1, column="prompt")
        for cells in reader:
            if None in cells:
                raise PromptLogError(path, "has more cells than the header", line=reader.line_num)
            yield reader.line_num, cells
    except csv.Error as error:
        raise PromptLogError(path, f"is not CSV: {error}", line=reader.line_num) from None


def _row(path: Path, line: int, cells: Cells, seed_column: str) -> LogRow:
    prompt = cells.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise PromptLogError(path, "is missing or empty", line=line, column="prompt")
    return LogRow(
        line=line,
        prompt=prompt,
        time=_time(path, line, cells),
        user=_text(cells, USER_COLUMNS),
        seed=_seed(path, line, cells, seed_column),
        kind=_text(cells, ("kind",)),
    )


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
