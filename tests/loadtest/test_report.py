import base64
import io
import json
import math
from pathlib import Path

import pytest
from PIL import Image

from loadtest.figures import Slo, percentile, summarise
from loadtest.outcomes import Outcome
from loadtest.picture_check import BadAnswer, read_answer
from loadtest.report import Report, compare, main, render, run_of, write_json


def outcome(line: int, **fields: object) -> Outcome:
    shared = {"number": line, "intended": 0.0, "sent": 0.0, "finished": 1.0}
    return Outcome(**{"line": line, **shared, **fields})  # type: ignore[arg-type]


def report_of(outcomes: list[Outcome]) -> Report:
    return Report({}, {}, {}, Slo(), [run_of("replay", "auto", outcomes, Slo(), [], len(outcomes), 0.05)])


def test_summary_adds_up() -> None:
    outcomes = [
        outcome(1, verdict="MISS", steps=20, intended=0.0, sent=0.5, finished=2.0, spent_gpu_seconds=2.4),
        outcome(
            2,
            verdict="APPROX",
            steps=20,
            skipped=8,
            wasted=2,
            saved_gpu_seconds=0.6,
            spent_gpu_seconds=1.5,
            intended=1.0,
            finished=2.0,
        ),
        outcome(3, verdict="EXACT", steps=20, skipped=20, saved_gpu_seconds=2.0, intended=3.0, finished=3.1),
        outcome(4, error="status 429, queue_full"),
    ]
    summary = summarise(outcomes)
    assert (summary.requests, summary.failures) == (4, 1)
    assert summary.errors == {"status 429, queue_full": 1}
    assert summary.verdicts == {"APPROX": 1, "EXACT": 1, "MISS": 1}
    assert summary.hit_share == pytest.approx(2 / 3)
    assert summary.mean_skip_share == pytest.approx((0 + 0.4 + 1.0) / 3)
    assert summary.mean_skip_share_of_hits == pytest.approx(0.4)
    assert summary.steps_saved_share == pytest.approx((8 - 2 + 20) / 60)
    assert summary.gpu_saved_share == pytest.approx(2.6 / 6.5)
    assert summary.latency_p50 == pytest.approx(1.0)
    assert summary.latency_p99 == pytest.approx(2.0), "waiting to be sent counts"
    assert summary.duration == pytest.approx(3.1)
    assert "429" in render(summary)


def test_summary_of_nothing_answered() -> None:
    summary = summarise([outcome(1, error="no answer")])
    assert summary.failures == 1
    assert math.isnan(summary.latency_p50)
    assert "failures            1" in render(summary)


@pytest.mark.parametrize(("rank", "value"), [(50, 2), (75, 3), (99, 4), (100, 4), (0, 1)])
def test_percentile_is_a_measured_value(rank: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], rank) == value


def test_compare_two_reports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, skipped in (("cached", 10), ("uncached", 0)):
        outcomes = [outcome(1, verdict="APPROX" if skipped else "BYPASS", steps=20, skipped=skipped)]
        write_json(tmp_path / f"{name}.json", report_of(outcomes))
    assert main([str(tmp_path / "cached.json"), str(tmp_path / "uncached.json")]) == 0
    table = capsys.readouterr().out
    assert table.startswith("| | cached | uncached | ratio |")
    assert "| steps saved | 50.0% | 0.0% | – |" in table
    saved = json.loads((tmp_path / "cached.json").read_text())
    assert saved["outcomes"][0]["latency"] == 1.0
    assert compare(saved["summary"], saved["summary"], ("a", "b"))


def test_compare_refuses_what_is_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "x.json").write_text("{}")
    assert main([str(tmp_path / "x.json"), str(tmp_path / "x.json")]) == 2
    assert main([]) == 2
    assert "not a replay report" in capsys.readouterr().err


def png(kind: str = "PNG") -> str:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(buffer, kind)
    return base64.b64encode(buffer.getvalue()).decode()


def answer(**cache: object) -> dict[str, object]:
    sound = {"verdict": "MISS", "steps": 20, "skipped_steps": 0}
    return {"data": [{"b64_json": png(), "seed": 3, "cache": {**sound, **cache}}]}


def test_sound_answer_is_read() -> None:
    read = read_answer(200, json.dumps(answer(verdict="APPROX", skipped_steps=5)).encode())
    assert (read.seed, read.cache["skipped_steps"]) == (3, 5)


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (0, b"", "no answer"),
        (502, b"<html>", "status 502, not JSON"),
        (429, b'{"error": {"code": "queue_full"}}', "status 429, queue_full"),
        (200, b"[]", "not a JSON object"),
        (200, b'{"data": []}', "lacks a field"),
        (200, json.dumps(answer(verdict="HIT")).encode(), "unknown verdict 'HIT'"),
        (200, json.dumps(answer(skipped_steps=21)).encode(), "impossible step counts: 21 of 20"),
        (200, json.dumps({"data": [{"b64_json": "AAAA", "seed": 1, "cache": {}}]}).encode(), "does not decode"),
        (200, json.dumps({"data": [{"b64_json": png("GIF"), "seed": 1, "cache": {}}]}).encode(), "GIF, not PNG"),
    ],
)
def test_unsound_answers_are_failures(status: int, body: bytes, complaint: str) -> None:
    with pytest.raises(BadAnswer, match=complaint):
        read_answer(status, body)


def test_truncated_picture_is_a_failure() -> None:
    cut = base64.b64encode(base64.b64decode(png())[:-20]).decode()
    body = {"data": [{"b64_json": cut, "seed": 1, "cache": {"verdict": "MISS", "steps": 2, "skipped_steps": 0}}]}
    with pytest.raises(BadAnswer, match="does not decode"):
        read_answer(200, json.dumps(body).encode())


@pytest.mark.parametrize(("verdict", "header"), [("MISS", "headstart; hit"), ("EXACT", "headstart; fwd=miss")])
def test_a_header_that_contradicts_the_body_is_a_failure(verdict: str, header: str) -> None:
    body = json.dumps(answer(verdict=verdict)).encode()
    with pytest.raises(BadAnswer, match=f"the body {verdict}"):
        read_answer(200, body, header)
    assert read_answer(200, body, "edge; hit").cache["verdict"] == verdict, "other caches do not matter"
