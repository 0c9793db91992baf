import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.soak_audit import Exposition, check_log, check_metrics
from benchmarks.soak_client import Drawn, Outcome
from benchmarks.soak_faults import FAULTY_SHARE, schedule
from benchmarks.soak_mix import BAD, KINDS, MARK, PROMPTS, Mix, Shot
from benchmarks.soak_plot import draw
from benchmarks.soak_report import probes
from benchmarks.soak_table import soak_table
from benchmarks.soak_watch import Sample, growth, slope
from service.pictures import encode

MIX = Mix(3, ("ddim", "euler"))


@pytest.mark.timeout(900)  # a real engine starts twice, maybe beside a training run
def test_a_small_soak_leaves_nothing_broken(tmp_path: Path) -> None:
    report = soak.run(quick=True, quiet=True, requests=120)
    report |= {"quick": True}
    findings = {name: report[name] for name in ("wrong", "probes", "repeats", "checks", "log", "exit_status")}
    assert report["passed"], json.dumps(findings, indent=1)
    assert report["headline"]["requests"] == 120
    assert report["headline"]["engine_kills"] == 1
    assert {fault["kind"] for fault in report["faults"]} == {"engine-kill", "redis-kill", "redis-stall"}
    assert report["repeats"]["compared"] > 0
    assert sum(sum(counts.values()) for counts in report["ends"].values()) == 120
    assert any("never ended" in line for line in soak_table(report))
    draw(report, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").stat().st_size > 0


def test_a_number_gives_the_same_request_whatever_was_drawn_before() -> None:
    late = Mix(3, ("ddim", "euler")).shot(40)
    assert [MIX.shot(number) for number in range(41)][40] == late
    assert Mix(4, ("ddim", "euler")).shot(40) != late


def test_the_mix_holds_every_kind_and_every_way_to_be_wrong() -> None:
    shots = [MIX.shot(number) for number in range(3000)]
    assert {shot.kind for shot in shots} == set(KINDS)
    assert sum(shot.kind == "bad" and shot in BAD for shot in shots) > len(BAD)
    assert all((shot.hang_up is not None) == (shot.kind == "cancelled") for shot in shots)
    assert all(shot.accepts == (200,) for shot in shots if shot.kind in ("plain", "stream", "watch", "cancelled"))


@pytest.mark.parametrize(("requests", "kills"), [(120, 1), (400, 2), (10_000, 8)])
def test_all_faults_come_in_order_and_before_the_second_half(requests: int, kills: int) -> None:
    faults = schedule(requests, kills)
    assert sum(fault.kind == "engine-kill" for fault in faults) == kills
    assert len(faults) == kills + 2
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)
    assert faults[-1].at <= FAULTY_SHARE * requests


def test_a_slope_is_found_and_its_interval_holds_it_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(5, 10, 160)
    covered = 0
    for _ in range(200):
        fit = slope(list(x), list(40 * x + rng.normal(0, 30, size=160)))
        covered += fit["low"] <= 40 <= fit["high"]
    assert 0.88 <= covered / 200 <= 0.99
    assert np.isnan(slope([1.0], [2.0])["value"])


def test_growth_looks_at_the_last_process_of_the_second_half_only() -> None:
    def sample(finished: int, pid: int, rss: int) -> Sample:
        return Sample(finished, 0.0, 0, {"api": {"pid": pid, "rss_kb": rss, "descriptors": 5, "threads": 3}})

    samples = [sample(at, 1, 9000 + 100 * at) for at in range(60)]
    samples += [sample(at, 2, 50 + 2 * at) for at in range(60, 100)]
    found = growth(samples, 100)["api"]
    assert found["rss_kb"]["value"] == pytest.approx(2000)
    assert found["rss_kb"]["n"] == 40
    assert found["descriptors"]["value"] == pytest.approx(0)


def _metrics(**changes: int) -> Exposition:
    counts = {"answered": 3, "refused": 1, "lookups": 3, "restarts": 1, "active": 0} | changes
    return Exposition(
        f"""
headstart_requests_total{{route="/v1/images/generations",status="200",cache="MISS"}} {counts["answered"]}
headstart_requests_total{{route="/v1/images/generations",status="400",cache="none"}} {counts["refused"]}
headstart_requests_total{{route="/metrics",status="200",cache="none"}} 99
headstart_cache_lookups_total{{verdict="MISS",reason="no-exact"}} {counts["lookups"]}
headstart_engine_restarts_total {counts["restarts"]}
headstart_active_jobs {counts["active"]}
"""
    )


def _outcomes() -> list[Outcome]:
    drawn = Drawn(b"", 1, "MISS", "no-exact")
    good = [Outcome(Shot("plain", "/v1/images/generations", pictures=1), "pictures", 200, drawn=(drawn,))] * 2
    gone = Outcome(Shot("cancelled", "/v1/images/generations", pictures=1, hang_up=0.1), "gone")
    return [*good, gone, Outcome(BAD[0], "refused", 400, "invalid_json")]


@pytest.mark.parametrize(
    ("changes", "broken"),
    [
        ({}, set()),
        ({"answered": 2, "lookups": 2}, set()),
        ({"answered": 1}, {"requests answered 200"}),
        ({"refused": 2}, {"requests answered 400", "requests answered"}),
        ({"lookups": 4}, {"pictures drawn"}),
        ({"restarts": 0}, {"engine restarts"}),
        ({"active": 1}, {"gauge headstart_active_jobs at the end"}),
    ],
)
def test_metrics_that_do_not_fit_the_clients_are_found(changes: dict[str, int], broken: set[str]) -> None:
    checks = check_metrics(_metrics(**changes), _outcomes(), kills=1)
    assert broken <= {check["what"] for check in checks if not check["holds"]}
    assert bool(broken) == any(not check["holds"] for check in checks)


def test_the_log_is_searched_for_bugs_and_prompts(tmp_path: Path) -> None:
    path = tmp_path / "service.log"
    lines: list[dict[str, Any]] = [
        {"level": "info", "message": "request"},
        {"level": "error", "message": "unexpected error", "error": "KeyError", "at": ["a.py:1 f"]},
        {"level": "warning", "message": f"lost 12 writes of {PROMPTS[0]}"},
    ]
    path.write_text("\n".join(map(json.dumps, lines)) + f"\nTraceback (most recent call last): {MARK}\n")
    found = check_log(path)
    assert (found["lines"], found["tracebacks"], found["unexpected"], found["leaked_prompts"]) == (4, 1, 1, 2)
    assert len(found["strays"]) == 1


def test_a_probe_that_shows_another_picture_is_a_mismatch() -> None:
    def outcome(level: int) -> Outcome:
        data = encode(np.full((8, 8, 3), level, dtype=np.uint8))
        return Outcome(Shot("probe", "/", pictures=1), "pictures", 200, drawn=(Drawn(data, 1, "BYPASS", ""),))

    found = probes([outcome(level) for level in (100, 101, 100, 140)], [outcome(100), outcome(100)])
    assert (found["identical"], found["mismatches"], found["max_difference"]) == (2, 1, 40)
    assert found["alone_identical"]
    assert not probes([outcome(100)], [outcome(100), outcome(101)])["alone_identical"]
