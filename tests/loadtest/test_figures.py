"""The report's numbers, against a log whose figures are known beforehand."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.blocks import Block, Figure, Paragraph, Table
from loadtest.figures import Slo, jain, summarise
from loadtest.generator import judge_generator, lateness_limit
from loadtest.outcomes import Outcome, Refusal, comebacks_of, outcome_of
from loadtest.pages import as_html, as_markdown, write_pages
from loadtest.player import TICK, stalls_of
from loadtest.report import Report, as_json, run_of
from loadtest.story import tell
from loadtest.timeline import cut, width_for

ALONE = 1.0
SLO = Slo({"small": ALONE, "large": 4.0}, factor=3.0)


def outcome(number: int, **fields: object) -> Outcome:
    shared = {"line": number + 1, "asked": "small", "intended": float(number), "verdict": "MISS", "steps": 20}
    fields = {"sent": fields.get("intended", shared["intended"]), **shared, **fields}
    fields.setdefault("finished", float(str(fields["intended"])) + 1.0)
    return Outcome(number=number, **fields)  # type: ignore[arg-type]


def known() -> list[Outcome]:
    """Ten requests, one a second: 4 exact at 0.1 s, 3 approximate at 2 s, 1 slow miss, 1 large miss, 1 failure."""
    exact = [
        outcome(
            n,
            finished=n + 0.1,
            verdict="EXACT",
            skipped=20,
            saved_gpu_seconds=1.0,
            spent_gpu_seconds=0.0,
            cache_status="hit",
            tenant="acme",
        )
        for n in range(4)
    ]
    near = [
        outcome(
            n,
            finished=n + 2.0,
            verdict="APPROX",
            skipped=10,
            saved_gpu_seconds=0.5,
            spent_gpu_seconds=0.5,
            cache_status="hit",
            tenant="acme",
        )
        for n in (4, 5, 6)
    ]
    slow = outcome(7, finished=7 + 3.5, spent_gpu_seconds=1.0, cache_status="miss", tenant="beta")
    large = outcome(8, finished=8 + 11.0, asked="large", spent_gpu_seconds=4.0, cache_status="miss", tenant="beta")
    failed = outcome(9, finished=9.5, verdict=None, steps=0, error="status 429, queue_full", tenant="beta",
                     attempts=1, refusals=(Refusal(9.0, 9.5, 429, 4.0),), last_sent=9.0)  # fmt: skip
    return [*exact, *near, slow, large, failed]


def report_of(outcomes: Sequence[Outcome], *others: Sequence[Outcome], stopped: str | None = None) -> Report:
    names = [("replay", "auto"), ("uncached control", "off")]
    runs = [
        run_of(name, mode, found, SLO, [0.001], len(outcomes), 0.05)
        for (name, mode), found in zip(names, [outcomes, *others], strict=False)
    ]
    return Report(
        {"log": "x.csv"},
        {"model": "m", "entries_before": 3},
        {"small": [0.9, 1.0, 1.1], "large": [4.0]},
        SLO,
        runs,
        stopped,
    )


def control() -> list[Outcome]:
    fields = {"verdict": "BYPASS", "spent_gpu_seconds": 1.3, "cache_status": "bypass"}
    return [outcome(n, **fields) for n in range(10)]


@pytest.fixture(scope="module")
def told() -> list[Block]:
    """The known run beside a control run: drawn once, since drawing takes longest."""
    return tell(report_of(known(), control()))


def table_under(blocks: list[Block], first: str) -> list[tuple[str, ...]]:
    return next(list(block.rows) for block in blocks if isinstance(block, Table) and block.head[0] == first)


def test_goodput_counts_what_kept_its_own_limit() -> None:
    summary = summarise(known(), SLO)
    assert summary.good == 4 + 3 + 1, "the slow one took 3.5 s of 3; the large one 11 s of 12"
    assert summary.attainment == pytest.approx(0.8)
    assert summary.goodput == pytest.approx(8 / 19.0), "until the last good answer"
    assert summarise(known(), Slo(seconds=2.5)).good == 7
    assert summarise(known()).goodput is None
    assert summarise(known(), Slo()).goodput is None


def test_nothing_answered_is_goodput_zero() -> None:
    summary = summarise([outcome(0, error="no answer", verdict=None)], SLO)
    assert (summary.good, summary.goodput, summary.failures) == (0, 0.0, 1)


def test_percentiles_are_of_latency_from_the_intended_start() -> None:
    late = [outcome(n, intended=0.0, sent=float(n), finished=n + 1.0) for n in range(10)]
    assert summarise(late).latency_p50 == 5.0, "each took 1 s, but was due at 0"


@given(st.lists(st.tuples(st.floats(0, 500), st.floats(0.001, 20), st.booleans()), min_size=1, max_size=80))
def test_pieces_add_up(drawn: list[tuple[float, float, bool]]) -> None:
    outcomes = [
        outcome(
            n,
            intended=due,
            finished=due + took,
            error=None if fine else "no answer",
            verdict="MISS" if fine else None,
        )
        for n, (due, took, fine) in enumerate(drawn)
    ]
    width = width_for(max(due for due, _, _ in drawn))
    pieces = cut(outcomes, width, SLO)
    assert len(pieces) <= 41
    assert sum(piece.requests for piece in pieces) == len(outcomes)
    assert sum(piece.good for piece in pieces) == summarise(outcomes, SLO).good
    for piece in pieces:
        assert sum(piece.mix.values()) == piece.requests
        if piece.p50 is not None and piece.p99 is not None:
            own = [one.latency for one in outcomes if piece.start <= one.intended < piece.start + width]
            assert min(own) <= piece.p50 <= piece.p99 <= max(own)


def test_cutting_nothing_gives_nothing() -> None:
    assert cut([], 1.0) == []


def test_comebacks_tell_whether_the_promise_was_true() -> None:
    refusals = (Refusal(0.0, 0.1, 429, 2.0), Refusal(2.1, 2.2, 429, 1.0), Refusal(3.2, 3.3, 503, None))
    let_in = outcome(0, attempts=4, refusals=refusals, last_sent=4.3)
    assert [(one.promised, one.accepted, one.honoured) for one in comebacks_of(let_in)] == [
        (2.0, False, True),
        (1.0, False, True),
    ]
    gave_up = outcome(0, attempts=1, refusals=refusals[:1], error="status 429")
    assert comebacks_of(gave_up) == []
    early = outcome(0, attempts=2, refusals=refusals[:1], last_sent=0.6)
    assert [(one.accepted, one.honoured) for one in comebacks_of(early)] == [(True, False)]


def test_outcomes_survive_the_way_from_a_worker() -> None:
    for one in known():
        fields = json.loads(json.dumps(as_json(report_of([one]))["outcomes"][0]))
        assert fields.pop("latency") == pytest.approx(one.latency)
        assert outcome_of(fields) == one


def test_a_late_generator_makes_the_run_invalid() -> None:
    prompt = [outcome(n) for n in range(100)]
    assert judge_generator(prompt, [0.01], 100, 0.05).valid
    late = [outcome(n, sent=n + 0.2, finished=n + 1.0) for n in range(2)] + prompt[2:]
    judged = judge_generator(late, [0.01], 100, 0.05)
    assert not judged.valid
    assert "left late: p99 0.200 s, limit 0.050 s" in judged.faults[0]
    assert "stalled" in judge_generator(prompt, [0.001] * 90 + [0.5] * 10, 100, 0.05).faults[0]
    assert "3 of 103 requests were not finished" in judge_generator(prompt, [], 103, 0.05).faults
    assert judge_generator(late, [], 100, 0.25).valid


def test_a_stall_weighs_what_it_lasted() -> None:
    assert stalls_of(0.0) == [0.0]
    assert stalls_of(10.0)[0] == 10.0
    assert len(stalls_of(10.0)) == pytest.approx(10.0 / TICK, abs=2)


@pytest.mark.parametrize(
    ("alone", "asked", "limit"), [([], 0, 0.05), ([2.0, 9.0], 0, 0.2), ([0.1], 0, 0.05), ([9.0], 0.3, 0.3)]
)
def test_limit_on_lateness(alone: list[float], asked: float, limit: float) -> None:
    assert lateness_limit(alone, asked) == pytest.approx(limit)


def test_jain() -> None:
    assert jain([1, 1, 1, 1]) == pytest.approx(1.0)
    assert jain([1, 0, 0, 0]) == pytest.approx(0.25)
    assert jain([0, 0]) is None


def test_verdict_table(told: list[Block]) -> None:
    rows = table_under(told, "verdict")
    assert rows == [
        ("APPROX", "3", "30.0%", "0.500", "2.000", "2.000", "1.50", "hit 3"),
        ("EXACT", "4", "40.0%", "1.000", "0.100", "0.100", "0.00", "hit 4"),
        ("MISS", "2", "20.0%", "0.000", "3.500", "11.000", "5.00", "miss 2"),
    ]


def test_tenant_table_and_fairness(told: list[Block]) -> None:
    assert [row[:3] for row in table_under(told, "tenant")] == [("acme", "7", "100.0%"), ("beta", "3", "33.3%")]
    fairness = (1 + 1 / 3) ** 2 / (2 * (1 + 1 / 9))
    assert any(isinstance(block, Paragraph) and f"{fairness:.3f}" in block.text for block in told)


def test_measured_saving_is_of_the_control_run(told: list[Block]) -> None:
    text = as_markdown(told)
    assert "| GPU seconds saved | 44% | by the answers 5.50 s |" in text, "6.5 spent of 11.7, without the failed one"
    assert "| GPU seconds spent | 6.50 | 13.00 | 0.500 |" in text
    assert "| within the SLO | 80.0% | 100.0% | 0.800 |" in text


def test_errors_and_refusals_are_told(told: list[Block]) -> None:
    text = as_markdown(told)
    assert "| replay | status 429, queue_full | 1 |" in text
    assert "| replay | 1 | 1 | 4.0 | 0 | – | 0 | – |" in text


def test_slo_table(told: list[Block]) -> None:
    assert table_under(told, "work") == [
        ("small", "3", "0.900", "1.000", "1.100", "3.000"),
        ("large", "1", "4.000", "4.000", "4.000", "12.000"),
    ]


def test_an_invalid_run_says_so_first() -> None:
    report = report_of(known()[:1], [], stopped="1 of 2 workers are gone")  # the control run never began
    assert not report.valid
    blocks = tell(report)
    assert as_markdown(blocks).startswith("# Load test\n\n> **NOT VALID.")
    assert "1 of 2 workers are gone" in as_html(blocks)


def test_a_run_without_outcomes_has_a_page() -> None:
    assert "there are no figures" in as_html(tell(report_of([], stopped="the replay broke off")))


def test_pages_need_nothing_else_and_escape_what_they_show(tmp_path: Path) -> None:
    hostile = '<script>alert("x")</script>|'
    outcomes = [*known(), outcome(10, error=hostile, verdict=None, tenant=hostile)]
    report = report_of(outcomes, known())
    write_pages(report, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    # Names of XML dialects are not fetched.
    outside = set(re.findall(r"[a-z]+://[^\s\"'<)]+", page)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert outside == set()
    assert not re.search(r'(?:src|href)="(?!#)', page)
    text = (tmp_path / "report.md").read_text()
    plots = [block.name for block in tell(report) if isinstance(block, Figure)]
    assert plots == ["latency", "spread", "goodput", "mix", "gpu"]
    assert all(f"]({name}.svg)" in text and (tmp_path / f"{name}.svg").is_file() for name in plots)
    assert json.loads((tmp_path / "report.json").read_text())["control"]["summary"]["requests"] == 10
