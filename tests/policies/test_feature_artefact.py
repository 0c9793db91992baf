"""Artefacts survive a round trip, and nothing calibrated for other conditions is ever used."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from policies.features.artefact import (
    CALIBRATOR,
    METHODS,
    Artefact,
    ArtefactError,
    ArtefactKey,
    Calibrations,
    CalibrationShelf,
    Conditions,
    Uncalibrated,
)
from policies.features.base import ChannelCorrection, RecipeError
from policies.features.fits import greedy_mask, optimal_groups

STEPS = 6
HERE = Conditions("w", "linear", "ddim", STEPS, 64, 32, 7.5, "float32")
RNG = np.random.default_rng(0)
ARRAYS: dict[str, dict[str, np.ndarray]] = {
    "teacache": {"coefficients": np.array([498.651651, -283.781631, 0.264230861])},
    "magcache": {"ratios": np.array([1.0, 1.1, 1.05, 1.0, 0.98, 0.9])},
    "smoothcache": {"attention": RNG.uniform(0, 1, (3, STEPS)), "feed-forward": RNG.uniform(0, 1, (3, STEPS))},
    "cachequant": {
        "distances": RNG.uniform(0, 1, (STEPS, STEPS)),
        "scale": RNG.normal(size=(STEPS, 2, 4)).astype(np.float16),
        "offset": RNG.normal(size=(STEPS, 2, 4)).astype(np.float16),
    },
}


def key(method: str = "magcache", **changes: Any) -> ArtefactKey:
    return ArtefactKey(
        **{"method": method, **dataclasses.asdict(HERE), "calibrator": CALIBRATOR, "prompts": "p", **changes}
    )


def artefact(method: str = "magcache", **changes: Any) -> Artefact:
    return Artefact(key(method, **changes), ARRAYS[method], {"samples": 8, "r_squared": np.float64(0.9)})


@pytest.fixture
def shelf(tmp_path: Path) -> CalibrationShelf:
    for method in METHODS:
        artefact(method).save(tmp_path)
    return CalibrationShelf(tmp_path)


@pytest.mark.parametrize("method", METHODS)
def test_round_trip(method: str, tmp_path: Path) -> None:
    path = artefact(method).save(tmp_path)
    loaded = Artefact.load(path)
    assert path.name == f"{method}-ddim-6-{HERE.width}x{HERE.height}-g{HERE.guidance:g}-{HERE.dtype}.safetensors"
    assert loaded.key == key(method)
    assert dict(loaded.notes) == {"samples": 8, "r_squared": 0.9}
    assert loaded.arrays.keys() == ARRAYS[method].keys()
    for name, array in ARRAYS[method].items():
        assert loaded.arrays[name].dtype == array.dtype
        assert np.array_equal(loaded.arrays[name], array)


def test_saving_replaces_the_file_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    artefact().save(tmp_path)
    path = artefact().save(tmp_path)
    before = path.read_bytes()
    assert [found.name for found in tmp_path.iterdir()] == [path.name]

    def stop(self: Path, target: Path) -> None:
        raise OSError("no space")

    monkeypatch.setattr(Path, "replace", stop)
    with pytest.raises(OSError, match="no space"):
        artefact(prompts="others").save(tmp_path)
    assert path.read_bytes() == before
    assert len(CalibrationShelf(tmp_path).of(HERE).found) == 1  # the draft left behind is not taken for an artefact


@pytest.mark.parametrize(
    ("method", "arrays"),
    [
        ("teacache", {}),
        ("teacache", {"coefficients": np.zeros((2, 2))}),
        ("teacache", {"coefficients": np.zeros(0)}),
        ("teacache", {"coefficients": np.zeros(3, dtype=np.int64)}),
        ("teacache", {"coefficients": np.array([1.0, np.nan])}),
        ("teacache", {"coefficients": np.ones(3), "more": np.ones(3)}),
        ("magcache", {"ratios": np.ones(STEPS + 1)}),
        ("magcache", {"ratios": np.zeros(STEPS)}),
        ("magcache", {"ratios": np.full(STEPS, np.inf)}),
        ("smoothcache", {}),
        ("smoothcache", {"attention": np.ones((3, STEPS + 1))}),
        ("smoothcache", {"attention": np.ones((3, STEPS)), "feed-forward": np.ones(STEPS)}),
        ("cachequant", {"distances": np.ones((STEPS, STEPS - 1))}),
        ("cachequant", {"distances": np.ones((STEPS, STEPS)), "scale": np.ones((STEPS, 2, 4))}),
        ("cachequant", {"scale": np.ones((STEPS, 2, 4)), "offset": np.ones((STEPS, 2, 4))}),
        ("cachequant", {**ARRAYS["cachequant"], "offset": np.ones((STEPS, 2, 3))}),
        ("cachequant", {**ARRAYS["cachequant"], "scale": np.ones((STEPS, 4)), "offset": np.ones((STEPS, 4))}),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused(method: str, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(ArtefactError, match=r"^[^\n]+$"):
        Artefact(key(method), arrays)


@pytest.mark.parametrize(
    "change",
    [
        {"method": "deepcache"}, {"steps": 0}, {"steps": 6.0}, {"width": True}, {"solver": ""}, {"guidance": np.nan},
        {"guidance": "7.5"}, {"weights_digest": None}, {"calibrator": "1"}, {"prompts": 3},
    ],
)  # fmt: skip
def test_bad_keys(change: dict[str, Any]) -> None:
    with pytest.raises(ArtefactError, match=r"^[^\n]+$"):
        key(**change)


@pytest.mark.parametrize("note", [np.nan, np.inf, "0.9", True, None])
def test_bad_notes(note: Any) -> None:
    with pytest.raises(ArtefactError, match="in the notes"):
        Artefact(key(), ARRAYS["magcache"], {"r_squared": note})


def written(path: Path, **changes: str | None) -> Path:
    """Write an artefact whose metadata are changed, or left out where the change is None."""
    whole = {
        "format": "headstart-feature-artefact",
        "version": "1",
        "key": json.dumps(dataclasses.asdict(key())),
        "notes": "{}",
    }
    metadata = {name: text for name, text in {**whole, **changes}.items() if text is not None}
    path.write_bytes(safetensors.numpy.save(ARRAYS["magcache"], metadata))
    return path


KEY = dataclasses.asdict(key())


@pytest.mark.parametrize(
    "changes",
    [
        {"format": None}, {"format": "pt"}, {"version": "2"}, {"version": None}, {"key": None}, {"notes": None},
        {"key": "{"}, {"key": "[]"}, {"key": "null"}, {"key": json.dumps({**KEY, "more": 1})},
        {"key": json.dumps({name: value for name, value in KEY.items() if name != "dtype"})},
        {"key": json.dumps({**KEY, "guidance": float("nan")})}, {"key": json.dumps({**KEY, "steps": 7})},
        {"key": json.dumps({**KEY, "guidance": 10**400})},
        {"notes": '{"samples": Infinity}'}, {"notes": '{"samples": "8"}'}, {"notes": "3"},
    ],
)  # fmt: skip
def test_bad_files_are_refused_in_one_line(tmp_path: Path, changes: dict[str, str | None]) -> None:
    assert Artefact.load(written(tmp_path / "good.safetensors")).key == key()
    path = written(tmp_path / "bad.safetensors", **changes)
    with pytest.raises(ArtefactError, match=r"^bad\.safetensors is not a valid feature artefact: [^\n]+$"):
        Artefact.load(path)


def test_corrupted_files_are_refused(tmp_path: Path) -> None:
    whole = artefact("cachequant").save(tmp_path).read_bytes()
    path = tmp_path / "bad.safetensors"
    for broken in (b"", b"no safetensors", whole[:-1], whole[: len(whole) // 2], whole + b"x", b"\xff" * 64):
        path.write_bytes(broken)
        with pytest.raises(ArtefactError, match=r"^bad\.safetensors is not a valid feature artefact: [^\n]+$"):
            Artefact.load(path)
    for missing in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ArtefactError):
            Artefact.load(missing)


def test_number_types_numpy_lacks_are_refused(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {
                "format": "headstart-feature-artefact",
                "version": "1",
                "key": json.dumps(KEY),
                "notes": "{}",
            },
            "ratios": {"dtype": "BF16", "shape": [STEPS], "data_offsets": [0, 2 * STEPS]},
        }
    ).encode()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\x80\x3f" * STEPS)
    with pytest.raises(ArtefactError):
        Artefact.load(path)


def test_everything_that_is_calibrated_can_be_read(shelf: CalibrationShelf) -> None:
    found = shelf.of(HERE)
    assert [found.reason(method) for method in METHODS] == [None] * 4
    assert found.teacache() == (498.651651, -283.781631, 0.264230861)
    assert found.magcache() == (1.0, 1.1, 1.05, 1.0, 0.98, 0.9)
    assert found.smoothcache("attention", 0.5) == greedy_mask(ARRAYS["smoothcache"]["attention"], 0.5)
    assert found.notes("teacache")["samples"] == 8


def test_groups_are_made_for_the_steps_that_are_left(shelf: CalibrationShelf) -> None:
    found, distances = shelf.of(HERE), ARRAYS["cachequant"]["distances"]
    assert found.cachequant(3, 0) == optimal_groups(distances, 3)
    assert found.cachequant(2, 3, 2) == optimal_groups(distances, 2, 3, 2)
    assert found.cachequant(9, 4) == (False,) * 4 + (True,) * 2
    assert found.cachequant(0, 0) == (True,) + (False,) * 5
    assert sum(found.cachequant(1, 0, longest=2)) == 3
    assert found.cachequant(1, STEPS - 1) == (False,) * 5 + (True,)


def test_channel_corrections_are_those_of_the_pair(shelf: CalibrationShelf) -> None:
    corrections, arrays = shelf.of(HERE).channel_corrections(), ARRAYS["cachequant"]
    assert sorted(corrections) == [(i, i + lag) for i in range(STEPS) for lag in (1, 2) if i + lag < STEPS]
    assert len(corrections) == 9
    assert corrections[1, 3] == ChannelCorrection(
        tuple(arrays["scale"][1, 1].tolist()), tuple(arrays["offset"][1, 1].tolist())
    )
    for pair in [(1, 1), (2, 1), (1, 4), (5, 6), (-1, 0)]:
        assert corrections.get(pair) is None


def test_what_an_artefact_lacks_is_uncalibrated(tmp_path: Path) -> None:
    Artefact(key("cachequant"), {"distances": ARRAYS["cachequant"]["distances"]}).save(tmp_path)
    artefact("smoothcache").save(tmp_path)
    found = CalibrationShelf(tmp_path).of(HERE)
    assert any(found.cachequant(2, 0))
    with pytest.raises(
        Uncalibrated, match="cachequant is not calibrated for ddim at 6 steps: no channel corrections"
    ):
        found.channel_corrections()
    with pytest.raises(Uncalibrated, match="no errors of kind 'cross-attention'"):
        found.smoothcache("cross-attention", 0.1)


MISMATCHES: list[dict[str, Any]] = [
    {"weights_digest": "other"}, {"schedule": "cosine"}, {"solver": "euler"}, {"steps": 7}, {"width": 32},
    {"height": 64}, {"dtype": "float16"}, {"guidance": 9.4}, {"guidance": 5.6}, {"guidance": 1.0},
    {"guidance": np.nan},
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("change", MISMATCHES, ids=str)
def test_what_was_calibrated_elsewhere_is_refused(
    shelf: CalibrationShelf, method: str, change: dict[str, Any]
) -> None:
    found = shelf.of(dataclasses.replace(HERE, **change))
    reads = {
        "teacache": found.teacache,
        "magcache": found.magcache,
        "smoothcache": lambda: found.smoothcache("attention", 0.1),
        "cachequant": lambda: found.cachequant(2, 0),
    }
    (name,) = change
    assert name in (found.reason(method) or "")
    with pytest.raises(Uncalibrated, match=rf"^{method} is not calibrated for [^\n]*: [^\n]*{name}[^\n]*$"):
        reads[method]()


@pytest.mark.parametrize("guidance", [5.7, 7.5, 9.3])
def test_guidance_may_be_a_little_off(shelf: CalibrationShelf, guidance: float) -> None:
    assert shelf.of(dataclasses.replace(HERE, guidance=guidance)).magcache()


def test_guided_and_unguided_do_not_mix(tmp_path: Path) -> None:
    artefact(guidance=1.0).save(tmp_path)
    shelf = CalibrationShelf(tmp_path)
    assert shelf.of(dataclasses.replace(HERE, guidance=0.0)).reason("magcache") is None
    assert shelf.of(dataclasses.replace(HERE, guidance=1.1)).reason("magcache") is not None


def test_what_another_calibrator_computed_is_refused(tmp_path: Path) -> None:
    artefact(calibrator=CALIBRATOR + 1).save(tmp_path)
    assert "calibrator" in (CalibrationShelf(tmp_path).of(HERE).reason("magcache") or "")


def test_a_broken_file_says_so_and_stops_no_other(tmp_path: Path) -> None:
    artefact("teacache").save(tmp_path)
    (tmp_path / "magcache-ddim-6.safetensors").write_bytes(b"x")
    shelf = CalibrationShelf(tmp_path)
    assert shelf.of(HERE).teacache()
    assert shelf.broken.keys() == {"magcache"}
    with pytest.raises(Uncalibrated, match=r"magcache-ddim-6\.safetensors is not a valid feature artefact"):
        shelf.of(HERE).magcache()


def test_of_several_files_the_one_that_holds_is_taken(tmp_path: Path) -> None:
    artefact(solver="euler", dtype="float16").save(tmp_path)
    artefact(steps=STEPS).save(tmp_path)
    shelf = CalibrationShelf(tmp_path)
    assert shelf.of(HERE).magcache()
    reason = shelf.of(dataclasses.replace(HERE, width=128)).reason("magcache") or ""
    assert "width" in reason
    assert "solver" not in reason  # the nearest file explains


def test_the_folder_is_read_once(tmp_path: Path) -> None:
    shelf = CalibrationShelf(tmp_path / "none")
    artefact().save(tmp_path)
    assert shelf.of(HERE).reason("magcache") == "there is no artefact"
    shelf = CalibrationShelf(tmp_path)
    next(tmp_path.glob("magcache-*")).unlink()
    assert shelf.of(HERE) is shelf.of(dataclasses.replace(HERE))
    assert shelf.of(HERE).magcache()


def test_a_model_without_artefacts() -> None:
    none = Calibrations.none()
    with pytest.raises(RecipeError, match=r"^teacache is not calibrated for this model: there is no artefact$"):
        none.teacache()
    assert [none.reason(method) for method in METHODS] == ["there is no artefact"] * 4
