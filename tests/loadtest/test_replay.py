"""Real Locust, headless, against the real service."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from PIL import Image
from service_live import Client, LiveServer, live

import loadtest

LOCUSTFILE = Path(loadtest.__file__).parent / "locustfile.py"
LOCUST = [sys.executable, "-W", "ignore", "-m", "locust", "-f", str(LOCUSTFILE)]


def replay(url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """A replay whose own lateness does not matter: tests share their cores."""
    command = [*LOCUST, "--headless", "--host", url, "--max-lateness", "60", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


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
    assert {one["cache_status"] for one in outcomes} <= {"hit", "miss", "bypass"}
    assert report["valid"], report["faults"]
    assert len(report["standalone"]["default size, default steps"]) == 3
    assert 0 <= summary["goodput"] <= 7
    assert sorted(path.name for path in pictures.iterdir()) == [f"{line:06d}.png" for line in range(1, 8)]
    with Image.open(pictures / "000001.png") as picture:
        assert picture.size == (32, 32)


def test_plain_csv_is_replayed_back_to_back_without_the_cache(
    tmp_path: Path, live_service: LiveServer, live_client: Client
) -> None:
    log = tmp_path / "log.csv"
    log.write_text("idx,prompt\n" + "".join(f"{index},a green box number {index}\n" for index in range(9)))
    out = tmp_path / "report.json"
    options = (
        "--log",
        str(log),
        "--users",
        "3",
        "--limit",
        "8",
        "--cache-mode",
        "off",
        "--steps",
        "4",
        "--probes",
        "0",
    )
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
    assert "a request that stood alone failed (default size, default steps): no answer" in done.stdout


def test_replay_and_control_with_tenants_and_mixes(
    tmp_path: Path, live_service: LiveServer, live_client: Client
) -> None:
    rows = [{"prompt": f"a {colour} kite over a lake", "user": f"u{n % 4}"} for n, colour in enumerate(["red"] * 12)]
    log = write_log(tmp_path / "log.jsonl", rows)
    keys = tmp_path / "keys.txt"
    keys.write_text("# busiest first\nacme hs_secret_of_acme\nhs_secret_of_another\n")
    before = live_client.metric("headstart_cache_entries")
    options = (
        "--log", str(log), "--arrivals", "gamma", "--cv", "2", "--load", "0.8", "--control", "--keys", str(keys),
        "--sizes", "32x32,16x16", "--steps", "4:2,6", "--out", str(tmp_path / "out"),
    )  # fmt: skip
    done = replay(live_service.url, *options)
    assert done.returncode == 0, done.stderr
    report = report_of(tmp_path / "out" / "report.json")
    outcomes, control = report["outcomes"], report["control"]["outcomes"]
    assert [one["intended"] for one in outcomes] == [one["intended"] for one in control], "the same schedule"
    assert [one["asked"] for one in outcomes] == [one["asked"] for one in control]
    assert {one["verdict"] for one in control} == {"BYPASS"}
    assert set(report["standalone"]) == {one["asked"] for one in outcomes}
    work = sum(median(report["standalone"][one["asked"]]) for one in outcomes)
    assert work / outcomes[-1]["intended"] == pytest.approx(0.8)
    assert {one["tenant"] for one in outcomes} <= {"acme", "tenant-2"}
    assert len({(one["user"], one["tenant"]) for one in outcomes}) == 4
    assert report["service"]["entries_before"] == before
    written = "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    assert "secret" not in written + done.stdout
    assert "kite" not in written + done.stdout
    assert "Beside the uncached control run" in (tmp_path / "out" / "report.html").read_text()


@pytest.fixture(scope="module")
def busy_service(tmp_path_factory: pytest.TempPathFactory, resuming_model: Path) -> Iterator[LiveServer]:
    """A service that takes two requests at a time and refuses the others."""
    with live(tmp_path_factory.mktemp("busy"), model=str(resuming_model), queue_limit="2", threads="1") as running:
        yield running


BURST = ("--arrivals", "uniform", "--rate", "1000", "--cache-mode", "off", "--steps", "30", "--seed-column", "s")


def test_refused_clients_come_back_when_they_are_told_to(tmp_path: Path, busy_service: LiveServer) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"prompt": f"a ball {n}"} for n in range(8)])
    done = replay(
        busy_service.url, "--log", str(log), *BURST, "--retry", "honour", "--retries", "50", "--out", str(tmp_path)
    )
    assert done.returncode == 0, done.stdout
    report = report_of(tmp_path / "report.json")
    outcomes = report["outcomes"]
    refused = [one for one in outcomes if one["refusals"]]
    assert refused
    for one in refused:
        assert all(refusal["status"] == 429 and refusal["retry_after"] >= 1 for refusal in one["refusals"])
        assert one["attempts"] == len(one["refusals"]) + 1
        assert one["latency"] > sum(refusal["retry_after"] for refusal in one["refusals"]), "waiting counts"
        assert one["last_sent"] >= one["refusals"][-1]["finished"] + one["refusals"][-1]["retry_after"] - 0.05
    assert "## Retry-After" in (tmp_path / "report.md").read_text()


def test_clients_that_do_not_come_back_are_failures(tmp_path: Path, busy_service: LiveServer) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"prompt": f"a ball {n}"} for n in range(8)])
    out = tmp_path / "report.json"
    done = replay(busy_service.url, "--log", str(log), *BURST, "--report", str(out))
    assert done.returncode == 1
    report = report_of(out)
    assert report["summary"]["errors"] == {"status 429, queue_full": report["summary"]["failures"]}
    assert report["valid"], "the service refused; the load generator did its part"


def test_a_generator_that_cannot_keep_up_makes_the_run_invalid(tmp_path: Path, live_service: LiveServer) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"time": 0, "prompt": "a red ball"}])
    out = tmp_path / "report.json"
    done = replay(live_service.url, "--log", str(log), "--report", str(out), "--max-lateness", "1e-9")
    assert done.returncode == 3
    assert "NOT VALID: replay: requests left late" in done.stdout
    assert not report_of(out)["valid"]


def test_an_interrupted_replay_keeps_what_it_has(
    tmp_path: Path, live_service: LiveServer, live_client: Client
) -> None:
    log = write_log(tmp_path / "log.jsonl", [{"time": 600 * n, "prompt": "a red ball"} for n in range(2)])
    before = live_client.http.get("/v1/stats").json()["requests"]
    options = ("--log", str(log), "--probes", "0", "--report", str(tmp_path / "report.json"))
    command = [*LOCUST, "--headless", "--host", live_service.url, *options]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        live_service.wait(lambda: live_client.http.get("/v1/stats").json()["requests"] > before, "drew a picture")
        running.terminate()
        assert running.wait(120) == 3
    finally:
        running.kill()
    report = report_of(tmp_path / "report.json")
    assert "stopped early" in report["faults"]
    assert len(report["outcomes"]) <= 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (("--log", "absent.csv"), "absent.csv: cannot be read"),
        (("--speed", "0"), "--speed must be above 0"),
        (("--limit", "-1"), "must not be negative"),
        (("--arrivals", "poisson"), "needs --rate"),
        (("--arrivals", "poisson", "--rate", "2", "--speed", "2"), "leave it out with --rate"),
        (("--load", "0.5", "--probes", "0"), "--load needs"),
        (("--sizes", "huge"), "--sizes takes WIDTHxHEIGHT"),
        (("--keys", "absent.txt"), "--keys absent.txt: cannot be read"),
        (("--retry", "honour", "--retries", "0"), "--retries must be 1 or more"),
    ],
)
def test_bad_options_end_with_one_clear_line(options: tuple[str, ...], complaint: str) -> None:
    done = replay("http://127.0.0.1:9", *options)
    assert done.returncode == 2
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
