from pathlib import Path
from typing import Any

import pytest

from benchmarks import eviction
from benchmarks.eviction import NIRVANA, ORACLE, SHARES, Effort, case, headline, noise
from benchmarks.eviction_plot import draw
from benchmarks.eviction_table import eviction_summary, eviction_table
from loadtest.simulator.matching import PAPER
from loadtest.simulator.neighbours import find_neighbours
from loadtest.simulator.synthetic import synthetic_workload
from policies.eviction import POLICIES


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    group = [synthetic_workload(600, seed) for seed in range(2)]
    near = {id(one): find_neighbours(one, floor=PAPER.floor) for one in group}
    cases = [case("several", PAPER, group, near), case("one", PAPER, group[:1], near)]
    return {
        "headline": headline(cases), "cases": cases, "noise": noise(group[0], near[id(group[0])]),
        "shares": list(SHARES), "tuned_on": eviction.TUNED_ON, "data": "invented", "gate": "not simulated",
    }  # fmt: skip


def test_every_policy_has_a_figure_at_every_size(report: dict[str, Any]) -> None:
    for one in report["cases"]:
        assert set(one["policies"]) == {*POLICIES, ORACLE, NIRVANA, eviction.MODM}
        for row in one["policies"].values():
            assert len(row["saved"]) == len(SHARES)
            assert (
                0 <= row["pooled"]["low"] <= row["pooled"]["value"] <= row["pooled"]["high"] <= one["ceiling"] + 0.05
            )


def test_the_headline_has_the_agreed_keys(report: dict[str, Any]) -> None:
    head = report["headline"]
    assert head["best_policy"] in POLICIES
    assert head["best_over_lcbfu"] > 0
    assert 0 < head["best_over_oracle"] < 1.05
    assert 0 < head["saved_compute"] < 0.5


def test_table_and_picture_show_everything(report: dict[str, Any], tmp_path: Path) -> None:
    text = "\n".join(eviction_table(report))
    for words in ("| oracle |", "| nirvana: lcbfu |", "over 2 joins", "| follow-always | noise 0 |"):
        assert words in text
    assert "times what Nirvana" in eviction_summary(report)[0]
    draw(report, tmp_path / "eviction.png")
    assert (tmp_path / "eviction.png").stat().st_size > 10_000


def test_without_data_invented_workloads_are_used_and_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_DATA", raising=False)
    monkeypatch.setattr(eviction, "embedded", lambda name, rows, quiet: synthetic_workload(300, 9))
    groups = eviction.workloads(Effort(log=None, joins=2, joined=300, strangers=0), quiet=True)
    assert all("invented" in name for name in groups)
    assert [len(group) for group in groups.values()] == [1, 2]
