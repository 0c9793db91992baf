"""Ways of trying candidates come to what their names say, and their tables are drawn."""

from typing import Any

import numpy as np
import pytest

from benchmarks import candidates
from benchmarks.candidates import Outcome, Probe, ways
from benchmarks.candidates_table import ORACLE, REFERENCE, candidates_summary, candidates_table
from benchmarks.gate_picture import added, auc, picture_milliseconds, picture_of, together
from benchmarks.gate_table import picture_summary
from benchmarks.heatmaps_table import METHODS, heatmaps_table
from policies.matching import Attempt, Candidate, StateRef
from policies.matching.base import Deeper
from service.calibrate.matching.trials import Trial
from service.judges import Judge
from service.pictures import encode

STEPS = 8
JUDGED, DEEP = (StateRef(10 * skip, skip, has_prediction=True) for skip in (0.125, 0.5))


def probe(divergence: float, picture: float = 1.0, entry: int = 1) -> Probe:
    """Entered at the deep state below 0.2, at the judged one below 0.4."""
    return Probe(Attempt(entry, JUDGED, 0.9, 0.4, (Deeper(DEEP, 0.2),)), divergence, picture)


def test_a_probe_enters_what_the_gate_allows() -> None:
    assert [probe(value).entered for value in (0.1, 0.2, 0.3, 0.5)] == [DEEP, DEEP, JUDGED, None]
    assert probe(float("nan")).entered is None
    assert [probe(value).judged_for_nothing for value in (0.1, 0.3, 0.5)] == [True, False, True]


@pytest.mark.parametrize(
    ("divergences", "way", "wanted"),
    [
        ((0.9, 0.9, 0.1), "1 in turn", (0.0, 1, 1)),
        ((0.9, 0.9, 0.1), REFERENCE, (0.5, 3, 3)),
        ((0.9, 0.3, 0.1), REFERENCE, (0.125, 1, 1)),
        ((0.9, 0.3, 0.1), "2 at once", (0.125, 1, 0)),
        ((0.9, 0.3, 0.1), "3 at once", (0.5, 3, 1)),
        ((0.9, 0.9, 0.9), "3 at once", (0.0, 3, 1)),
        ((0.1,), "4 at once", (0.5, 1, 1)),
        ((0.9, 0.3, 0.1), ORACLE, (0.5, 1, 1)),
        ((0.9, 0.9), ORACLE, (0.0, 0, 0)),
        ((), REFERENCE, (0.0, 0, 0)),
        ((), "3 at once", (0.0, 0, 0)),
    ],
)
def test_ways_of_trying(divergences: tuple[float, ...], way: str, wanted: tuple[float, int, int]) -> None:
    found = ways()[way]([probe(value) for value in divergences])
    assert (found.depth, found.thrown, found.waited) == wanted


def test_of_equally_deep_candidates_the_most_alike_is_entered() -> None:
    found = ways()["2 at once"]([probe(0.15, entry=1), probe(0.05, entry=2)])
    assert found.probe is not None
    assert found.probe.attempt.entry_id == 2


def test_pictures_decide_the_order_or_who_is_tried_at_all() -> None:
    unlike, like = probe(0.9, picture=0.5, entry=1), probe(0.1, picture=1.0, entry=2)
    assert ways()["3 in turn, best pictures first"]([unlike, like]).thrown == 1
    assert ways()["3 in turn, only pictures that suit"]([unlike]) == Outcome(None, 0, 0)
    blind = ways()["a picture that suits, no gate"]([unlike, probe(0.9)])
    assert (blind.depth, blind.thrown) == (0.5, 0)


def test_figures_count_what_was_thrown_away() -> None:
    outcomes = [Outcome(probe(0.1), 2, 1), Outcome(None, 3, 1)]
    found = candidates.figures(outcomes, STEPS)
    assert (found["hits"], found["requests"]) == (1, 2)
    assert found["saved"]["value"] == pytest.approx((0.5 - 2 / 8 - 3 / 8) / 2)
    assert found["latency_steps"]["value"] == pytest.approx((4 + 1 + 8 + 1) / 2)


def test_ranks_follow_those_that_were_refused() -> None:
    rows = candidates.ranks([[probe(0.1)], [probe(0.9), probe(0.3)], [probe(0.9), probe(0.9)], []])
    assert [row["reached"] for row in rows] == [3, 2, 0, 0]
    assert [row["accepted"]["value"] for row in rows[:2]] == pytest.approx([1 / 3, 1 / 2])


def test_the_sessions_ask_for_nothing_that_is_held() -> None:
    left, targets = candidates.sessions(12)
    held = {caption.text for session in left for caption in session}
    texts = [target.text for target in targets]
    assert not held & set(texts)
    assert len(set(texts)) == len(texts) == len(left)
    assert {len(session) for session in left} == {candidates.RUNS}


def test_a_choice_is_resumed_unjudged() -> None:
    attempt = Attempt(1, DEEP, 0.9, float("inf"))
    policy, near = candidates.Chosen({"a": attempt}), [Candidate(1, 0.9, "b", (DEEP,))]
    assert policy.choose("a", near).attempts == (attempt,)
    assert policy.choose("c", near).attempts == ()


def trial(pair: int, neighbour: float, resumed: float, skip: float = 0.5) -> Trial:
    return Trial(pair, "colour", False, 0.9, skip, 0.1, 0.1, resumed, 1.0, 1.0, neighbour)


def test_auc_is_the_chance_of_the_right_order() -> None:
    assert auc(np.array([0, 0, 1]), np.array([1.0, 2.0, 3.0])) == 1.0
    assert auc(np.array([0, 1, 1]), np.array([2.0, 1.0, 2.0])) == pytest.approx(0.25)
    assert np.isnan(auc(np.array([0, 0]), np.array([1.0, 2.0])))


def test_what_the_picture_adds_to_a_gate_that_knows_nothing() -> None:
    trials = [trial(n, *((0.5, 0.5) if n % 3 == 0 else (1.0, 1.0)), skip) for n in range(60) for skip in (0.1, 0.5)]
    gate = {n: float(np.random.default_rng(n).random()) for n in range(60)}
    both = together(trials, gate)
    (level,) = added(trials, gate, both).values()
    assert level["bad"] == 20
    assert level["picture"]["value"] == 1.0
    assert level["together_over_gate"]["low"] > 0.2
    assert picture_of(trials[0]) > picture_of(trials[2])
    few = together(trials[:4], gate)
    assert np.isnan(few(trials[0]))


class Slow(Judge):
    """Counts the pictures it is shown."""

    name, loss = "slow", 0.1

    def __init__(self) -> None:
        self.shown: list[int] = []

    def score(self, images: Any, prompts: Any) -> np.ndarray:
        self.shown.append(len(images))
        return np.zeros(len(images))


def test_looking_at_pictures_is_timed_with_reading_them() -> None:
    judge, evaluated = Slow(), []
    png = encode(np.zeros((8, 8, 3), np.uint8))
    found = picture_milliseconds(judge, png, "a", lambda: evaluated.append(1))
    assert set(judge.shown) == {1, 8}
    assert found.keys() == {"one picture", "all candidates", "evaluation"}
    assert len(evaluated) == judge.shown.count(1)


def test_the_tables_of_candidates_are_drawn() -> None:
    figure = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 4}
    names = ("saved", "latency_steps", "bad_hit_rate", "saved_more", "saved_of_long", "saved_more_of_long")
    arm = {"hits": 1, "requests": 4} | dict.fromkeys(names, figure)
    ranks = [{"reached": 4, "accepted": figure}, *[{"reached": 0, "accepted": figure}] * 3]
    cache = {"arms": dict.fromkeys(ways(), arm), "ranks": ranks, "runs": 8}
    report = {
        "caches": {"1": cache, "3": cache},
        "sessions": 4,
        "steps": 8,
        "long": 50,
        "neighbours": 8,
        "headline": candidates._headline(cache),
    }
    lines = candidates_table(report)
    assert len([line for line in lines if line.startswith("| 3 in turn | 1 of 4 |")]) == 2
    assert any("first 0.25 [0.20, 0.30] of 4" in line for line in lines)
    summary = candidates_summary(report)
    assert summary[0].startswith("3 runs left by each session")
    assert len(summary) == 4 + 5


def test_the_summary_of_the_picture_names_every_level() -> None:
    gain = {"together_over_gate": {"value": 0.05, "low": 0.01, "high": 0.09, "n": 3}}
    (line,) = picture_summary({"picture": {"levels": {"0.25": gain, "0.5": gain}}})
    assert "25% 0.050 [0.010, 0.090]; 50% 0.050" in line


def test_the_table_of_heat_maps_is_drawn() -> None:
    figure = {"value": 0.25, "low": 0.2, "high": 0.3, "n": 4}
    shown = dict.fromkeys(("energy", "pointing", "energy on the other"), figure)
    group = dict.fromkeys([*METHODS, "area"], shown)
    report = {
        "groups": {"one thing": group, "two things": group},
        "randomised": {"hirescam": {"heads": figure}},
        "milliseconds": dict.fromkeys(METHODS, 12.0),
        "settings": {"samples": 8, "sigma": 0.1, "cells": 16},
        "scenes": 4,
    }
    (line,) = [line for line in heatmaps_table(report) if line.startswith("| HiResCAM")]
    assert line.endswith("| 0.25 [0.20, 0.30] | 12 |")
