"""Real Locust, headless, against the real service."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from service_live import Client, LiveServer

import loadtest

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"


def replay(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", url]
    return subprocess.run([*command, *options], capture_output=True, text=True, timeout=240)


def write_log(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def report_of(path: Path) -> Any:
    return json.loads(path.read_text())


def test_timed_log_is_replayed_open_loop(tmp_path: Path, live_service: LiveServer) -> None:
    words = ["a huge orange donut on a beach", "a large orange ring on a beach", "a large orange ring by the sea"]
    rows = [{"time": 4 * index, "user": "u", "prompt": words[index % 3]} for index in range(6)]
    log = write_log(tmp_path / "log.jsonl", [*rows, {"time": 20, "prompt": words[0], "seed": 5}])
    out, pictures = tmp_path / "report.json", tmp_path / "pictures"
    done = replay(
        live_service.url, "--log", str(log), "--speed", "4", "--report", str(out), "--save-images", str(pictures)
    )
    assert done.returncode == 0, done.stderr
    assert "requests            7" in done.stdout
    report = report_of(out)
    summary, outcomes = report["summary"], report["outcomes"]
    assert (summary["requests"], summary["failures"]) == (7, 0)
    assert summary["verdicts"]["APPROX"] >= 1
    assert 0 < summary["mean_skip_share"] < 1
    assert summary["spent_gpu_seconds"] > 0
    assert [one["intended"] for one in outcomes] == [0, 1, 2, 3, 4, 5, 5]
    assert next(one for one in outcomes if one["line"] == 7)["seed"] == 5
    assert sorted(path.name for path in pictures.iterdir()) == [f"{line:06d}.png" for line in range(1, 8)]
    with Image.open(pictures / "000001.png") as picture:
        assert picture.size == (32, 32)


def test_plain_csv_is_replayed_back_to_back_without_the_cache(
    tmp_path: Path, live_service: LiveServer, live_client: Client
) -> None:
    log = tmp_path / "log.csv"
    log.write_text("idx,prompt\n" + "".join(f"{index},a green box number {index}\n" for index in range(9)))
    out = tmp_path / "report.json"
    options = ("--log", str(log), "--users", "3", "--limit", "8", "--cache-mode", "off", "--steps", "4")
    done = replay(live_service.url, *options, "--report", str(out))
    assert done.returncode == 0, done.stderr
    report = report_of(out)
    assert report["summary"]["verdicts"] == {"BYPASS": 8}
    assert {one["steps"] for one in report["outcomes"]} == {4}
    assert report["summary"]["saved_gpu_seconds"] == 0


def test_failed_answers_are_counted_and_fail_the_run(tmp_path: Path, live_service: LiveServer) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"prompt": "a red ball"}, {"prompt": "x" * 5000}])
    out = tmp_path / "report.json"
    done = replay(live_service.url, "--log", str(log), "--report", str(out))
    assert done.returncode == 1
    summary = report_of(out)["summary"]
    assert (summary["requests"], summary["failures"]) == (2, 1)
    assert summary["errors"] == {"status 400, string_too_long": 1}


def test_nobody_there(tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"prompt": "a red ball"}])
    done = replay("http://127.0.0.1:9", "--log", str(log))
    assert done.returncode == 1
    assert "no answer" in done.stdout


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--log", "absent.csv"), "absent.csv: cannot be read"),
        (("--speed", "0"), "--speed must be above 0"),
        (("--limit", "-1"), "must not be negative"),
        (("--master",), "runs in one process"),
    ],
)
def test_bad_options_end_with_one_clear_line(options: tuple[str, ...], complaint: str) -> None:
    done = replay("http://127.0.0.1:9", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
