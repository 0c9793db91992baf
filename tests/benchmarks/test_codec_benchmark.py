"""The parts of the codec benchmark, without a model."""

import json
from collections import Counter

import numpy as np
import pytest

from benchmarks import codec, codec_profile
from benchmarks.codec import Case, Served, entry_of, report_of, shipped_levels
from benchmarks.codec_forms import BASELINE, WAYS, Costs, Way, keep, point_of, sizes
from benchmarks.codec_sheet import Row, draw_sheet
from benchmarks.codec_table import codec_table
from policies.matching.table import ThresholdRow, ThresholdTable
from service.engine.base import CapturedState, CleanLatent, JobResult, JobSpec
from training.pairs import sample_pairs

RNG = np.random.default_rng(0)
TABLE = ThresholdTable(
    tuple(ThresholdRow(skip, 0.9, 0.2) for skip in (0.1, 0.2, 0.4)),
    {"weights_digest": "w", "embedder_digest": "e", "schedule": "s"},
    judged_at=0.1,
)


def latent() -> np.ndarray:
    return RNG.normal(size=(8, 16, 16)).astype(np.float16)


def job(resumed: int | None = 0) -> JobResult:
    states = tuple(
        CapturedState(latent(), 8 * skip - 4, 900 - 900 * skip, skip, latent()[:, ::2, ::2].copy(), 0)
        for skip in (0.1, 0.2, 0.4)
    )
    image = RNG.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    final = CleanLatent(latent(), 0)
    return JobResult("a", image, resumed, 10, 2, 1, (), states, 0.0, 1.0, 0.1, 0.1, final=final)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_run_kept_any_way_serves_all_its_levels(way: Way) -> None:
    costs = Costs()
    states = keep(job(), 7, way, costs)
    assert [state.skip for state in states] == [0.1, 0.2, 0.4]
    assert all(state.prediction is not None for state in states)
    assert len(costs.entry_bytes) == len(costs.encode_us) == 1
    assert costs.state_bytes[0] == pytest.approx(costs.entry_bytes[0] / 3)


def test_the_more_compact_way_takes_fewer_bytes() -> None:
    for model in sizes().values():
        entries = {name: size["entry"] for name, size in model.items()}
        base = entries[BASELINE.name]
        assert entries["final fp16"] < entries["final-noise fp16"] < base
        assert 0.5 < entries["trajectory int8"] / base < 0.55
        assert entries["final int8"] < 0.2 * base


def test_entries_are_those_of_the_service() -> None:
    states = keep(job(), 7, BASELINE, Costs())
    points = {round(state.skip, 4): point_of(state, float("inf"), judged=True) for state in states}
    pairs = {pair.kind: pair for pair in sample_pairs(1, 60)}
    row = shipped_levels(TABLE, quick=False)[-1]
    assert (row.skip, len(shipped_levels(TABLE, quick=True))) == (0.4, 1)
    retry, other = (entry_of(pairs[kind], points, TABLE, row) for kind in ("retry", "wording"))
    assert (retry.skip, retry.deeper) == (0.4, ())
    assert (other.skip, other.max_divergence) == (0.1, 0.0)
    assert [(point.skip, point.max_divergence) for point in other.deeper] == [(0.4, 0.2)]


def served(score: float, refused: int) -> Served:
    one = Served()
    keep(job(), 7, BASELINE, one.costs)
    for level in (0.2, 0.4):
        one.results[level] = [job(None if number < refused else 0) for number in range(8)]
        one.scores[level] = np.full(8, score)
    return one


def test_report_tables_and_profile(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = JobSpec("a", "p", "", 1, 10, 4.0, "ddim", 32, 32)
    cases = [Case(number, pair, job(), spec) for number, pair in enumerate(sample_pairs(1, 8))]
    ways = {way: served(1.0, 0) for way in WAYS}
    ways[Way("final", "fp16")] = served(1.0, 4)  # as good, but half the hits are gone
    ways[Way("final", "int8")] = served(0.5, 0)
    assert report_of("w", cases, ways, np.ones(8))["adequate_form"] == "trajectory"  # too few pairs to tell
    monkeypatch.setattr(codec, "FEWEST", 8)
    model = report_of("w", cases, ways, np.ones(8)) | {"looked_at": 24}
    assert model["adequate_form"] == "final-noise"
    assert model["kinds"] == dict(Counter(case.pair.kind for case in cases))
    assert model["ways"]["final fp16"]["hits_kept"] == 0.5
    assert model["ways"]["final int8"]["over_trajectory"]["value"] == 0.5
    models = {"unet": model}
    headline = codec._headline(models, sizes())
    assert headline["final_adequate"] == {"unet": False}
    assert headline["final_noise_adequate"] == {"unet": True}
    assert 0.5 < headline["bytes_int8_over_fp16"] < 0.52
    report = {"headline": headline, "models": models, "sizes": sizes()}
    lines = codec_table(report)
    assert any("final-noise int8" in line for line in lines)

    TABLE.save(tmp_path / "matching.json")
    monkeypatch.setattr(codec_profile, "MODELS", {"unet": tmp_path})
    (tmp_path / "report.json").write_text(json.dumps(report))
    codec_profile.main([str(tmp_path / "report.json")])
    after = ThresholdTable.load(tmp_path / "matching.json")
    assert (after.adequate_form, after.rows) == ("final-noise", TABLE.rows)
    assert after.metadata["forms"]["pairs"] == 8
    with pytest.raises(ValueError, match="other weights"):
        codec_profile.write_profile(tmp_path, model | {"weights_digest": "x"})


def test_the_sheet_is_drawn(tmp_path) -> None:
    rows = [Row(name, [(job().image, "a text that goes on and on")] * 3) for name in ("source", "final")]
    draw_sheet(tmp_path / "sheet.png", rows)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
