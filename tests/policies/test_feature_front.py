"""The front that auto chooses from: the fastest that is good enough, and nothing that was not measured."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from policies.features.choice import FeatureChoice
from policies.features.front import Front, FrontError, FrontKey, FrontPoint

KEY = FrontKey("w", "linear", 64, 32, 7.5, "float32")


def point(policy: str, strength: float, speedup: float, quality: float, skip: float = 0.0) -> FrontPoint:
    return FrontPoint("ddim", 50, policy, strength, skip, speedup, quality, max(0.0, quality - 0.02))


FRONT = Front(
    KEY,
    (
        point("deepcache", 0.3, 1.5, 0.999),
        point("deepcache", 0.6, 2.2, 0.985),
        point("magcache", 0.5, 1.9, 0.992),
        point("teacache", 0.2, 1.04, 1.01),
        point("magcache", 0.9, 2.5, 0.6),
        point("deepcache", 0.3, 1.4, 0.999, skip=0.3),
        point("deepcache", 0.6, 2.0, 0.999, skip=0.3),
        point("cfg-cache", 0.5, 2.5, 0.999, skip=0.3),
        point("magcache", 0.9, 3.0, 0.5, skip=0.5),
    ),
    {"device": "cpu"},
)


@pytest.mark.parametrize(
    ("min_quality", "skip", "expected"),
    [
        (0.99, 0.0, ("magcache", 0.5)),
        (0.98, 0.0, ("deepcache", 0.6)),
        (0.992, 0.0, ("magcache", 0.5)),  # the bound itself is good enough, though lower95 lies under it
        (0.995, 0.0, ("deepcache", 0.3)),
        (1.0, 0.0, None),  # good enough, but no faster worth speaking of
        (1.5, 0.0, None),
        (0.99, 0.3, ("deepcache", 0.3)),  # faster ones are not good enough, or not measured, if it runs in full
        (0.98, 0.3, ("deepcache", 0.6)),
        (0.99, 0.2, ("deepcache", 0.3)),
        (0.99, 0.45, None),
        (0.5, 0.45, ("magcache", 0.9)),
        (0.99, 0.05, None),  # resumed, and only full runs were measured near
        (0.0, 0.8, None),
    ],
)
def test_the_fastest_that_is_good_enough(min_quality: float, skip: float, expected: tuple[str, float] | None) -> None:
    wanted = None if expected is None else FeatureChoice(*expected)
    assert FRONT.choose("ddim", 50, min_quality, skip) == wanted


def test_what_was_not_measured_is_not_chosen() -> None:
    assert FRONT.choose("euler", 50, 0.5) is None
    assert FRONT.choose("ddim", 30, 0.5) is None
    assert Front(KEY, ()).choose("ddim", 50, 0.5) is None


def test_of_equally_fast_ones_the_better() -> None:
    front = Front(KEY, (point("a", 0.5, 2.0, 0.99), point("b", 0.5, 2.0, 0.999), point("c", 0.5, 2.0, 0.995)))
    assert front.choose("ddim", 50, 0.9) == FeatureChoice("b", 0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"weights_digest": "x"},
        {"schedule": "x"},
        {"width": 1},
        {"height": 1},
        {"dtype": "x"},
        {"guidance": 1.0},
        {"guidance": 10.0},
    ],
    ids=str,
)
def test_it_holds_for_what_it_was_measured_on(change: dict[str, Any]) -> None:
    assert KEY.refusals(KEY) == KEY.refusals(dataclasses.replace(KEY, guidance=6.0)) == ()
    (refusal,) = KEY.refusals(dataclasses.replace(KEY, **change))
    assert next(iter(change)) in refusal


def test_round_trip(tmp_path: Path) -> None:
    FRONT.save(tmp_path / "front.json")
    assert Front.load(tmp_path / "front.json") == FRONT
    assert [path.name for path in tmp_path.iterdir()] == ["front.json"]


POINT = dataclasses.asdict(FRONT.points[0])


@pytest.mark.parametrize(
    "change",
    [
        {"format": "x"}, {"version": 2}, {"key": None}, {"key": {}}, {"points": None}, {"points": [3]},
        {"key": {**dataclasses.asdict(KEY), "width": "64"}}, {"key": {**dataclasses.asdict(KEY), "dtype": ""}},
        {"metadata": 3}, {"points": [POINT, POINT]}, {"points": [{**POINT, "more": 1}]},
        {"points": [{name: value for name, value in POINT.items() if name != "lower95"}]},
        *({"points": [{**POINT, **wrong}]} for wrong in (
            {"strength": 0}, {"strength": 1.1}, {"skip": 1.0}, {"skip": -0.1}, {"speedup": 0}, {"quality": 0.5},
            {"speedup": None}, {"speedup": float("nan")}, {"steps": 0}, {"steps": 50.0}, {"solver": 3},
            {"policy": ""}, {"lower95": -1}, {"speedup": 10**400},
        )),
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_line(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "front.json"
    path.write_text(json.dumps({**FRONT.to_json(), **change}))
    with pytest.raises(FrontError, match=r"^front\.json is not a valid feature front: [^\n]+$"):
        Front.load(path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\ud800"])
def test_not_a_front_at_all(tmp_path: Path, text: str) -> None:
    path = tmp_path / "front.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(FrontError):
        Front.load(path)


def test_a_front_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Front.load(tmp_path / "front.json")
