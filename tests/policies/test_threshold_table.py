"""Threshold tables survive a round trip and refuse nonsense."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from policies.matching import TableError, ThresholdRow, ThresholdTable
from policies.matching.table import bounds_at

KEY = {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"}


def table(*rows: ThresholdRow, **key: str) -> ThresholdTable:
    return ThresholdTable(rows or (ThresholdRow(0.3, 0.8, 0.1),), {**KEY, **key}, {"quality_bound": 0.99})


@pytest.mark.parametrize("level", [None, 0.1])
def test_where_divergences_are_judged_is_saved(level: float | None, tmp_path: Path) -> None:
    replace(table(), judged_at=level).save(tmp_path / "t.json")
    assert ThresholdTable.load(tmp_path / "t.json").judged_at == level


def test_a_judging_level_lies_within_the_run() -> None:
    with pytest.raises(TableError, match="judged_at"):
        replace(table(), judged_at=1.0)


def test_round_trip(tmp_path: Path) -> None:
    original = table(ThresholdRow(0.4, 0.9, math.inf), ThresholdRow(0.2, 0.7, 0.2), solver="ddim")
    original.save(tmp_path / "table.json")
    loaded = ThresholdTable.load(tmp_path / "table.json")
    assert loaded == original
    assert [row.skip for row in loaded.rows] == [0.2, 0.4]
    assert [path.name for path in tmp_path.iterdir()] == ["table.json"]


def test_matches_everything_it_names() -> None:
    assert table().matches({**KEY, "solver": "ddim"})
    assert table(solver="ddim").matches({**KEY, "solver": "ddim"})
    assert not table(solver="ddim").matches(KEY)
    assert not table().matches({**KEY, "weights_digest": "other"})


@pytest.mark.parametrize(
    "row",
    [(0.0, 0.8, 0.1), (1.0, 0.8, 0.1), (0.3, math.nan, 0.1), (0.3, -2, 0.1), (0.3, 0.8, -1), (0.3, 0.8, math.nan)],
)
def test_bad_rows(row: tuple[float, float, float]) -> None:
    with pytest.raises(TableError):
        ThresholdRow(*row)


def test_bad_tables() -> None:
    with pytest.raises(TableError, match="two rows for skip level"):
        table(ThresholdRow(0.3, 0.8, 0.1), ThresholdRow(0.3, 0.9, 0.1))
    with pytest.raises(TableError, match="embedder_digest"):
        ThresholdTable((), {"weights_digest": "w", "schedule": "s"})


@pytest.mark.parametrize("change", [{"version": 1}, {"rows": [{"skip": 0.3}]}, {"key": None}, {"rows": None}])
def test_bad_files_are_refused_in_one_line(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**table().to_json(), **change}))
    with pytest.raises(TableError, match=r"^table\.json is not a valid threshold table: [^\n]+$"):
        ThresholdTable.load(path)


def test_not_json(tmp_path: Path) -> None:
    (tmp_path / "table.json").write_text("{")
    with pytest.raises(TableError):
        ThresholdTable.load(tmp_path / "table.json")


ROWS = (ThresholdRow(0.1, 0.6, 0.1), ThresholdRow(0.2, 0.5, 0.2), ThresholdRow(0.4, 0.9, 0.1))


@pytest.mark.parametrize(
    ("skip", "expected"),
    [
        (0.01, None),  # too far before the first row
        (0.05, (0.6, 0.1)),
        (0.1, (0.6, 0.1)),
        (0.103, (0.6, 0.1)),
        (0.15, (0.6, 0.1)),  # the stricter of both neighbours, each bound by itself
        (0.2, (0.5, 0.2)),
        (0.3, None),  # this level was left out of the table
        (0.25, None),
        (0.398, (0.9, 0.1)),
        (0.4, (0.9, 0.1)),
        (0.45, None),  # deeper than the deepest
    ],
)
def test_bounds_between_and_beyond_the_rows(skip: float, expected: tuple[float, float] | None) -> None:
    bounds = bounds_at(ROWS, skip)
    assert (bounds and (bounds.min_similarity, bounds.max_divergence)) == expected


def test_no_rows_no_bounds() -> None:
    assert bounds_at((), 0.3) is None
