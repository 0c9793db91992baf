import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loadtest.simulator.command import Options, parse_sizes, run_simulation
from loadtest.simulator.embeddings import EmbeddingCache
from loadtest.simulator.matching import PAPER, Matching, MatchingError, fixed, load_matching
from loadtest.simulator.neighbours import find_neighbours
from loadtest.simulator.replay import EXACT, MISS, UNBOUNDED, Ground, _Pass, replay
from loadtest.simulator.setup import Setup, SetupError, States, headstart, modm, nirvana
from loadtest.simulator.study import Row, Size, ceiling, compare, make_ground, named, oracle, recommend, unbounded
from loadtest.simulator.synthetic import synthetic_workload
from loadtest.simulator.workload import Workload, numbered
from policies.eviction import POLICIES, make_eviction
from policies.matching import Candidate, PaperTableMatching, StateRef, lexical_veto
from policies.matching.veto import KINDS

SAMPLE = Path("loadtest/sample_log.jsonl")


def workload(angles: Sequence[float], seeds: list[int] | None = None) -> Workload:
    """Requests at angles in degrees: equal angles are equal texts."""
    texts, names = numbered([str(angle) for angle in angles])
    turns = np.radians([float(name) for name in names])
    vectors = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(np.float32)
    prompts = tuple("prompt " + chr(97 + text) for text in range(len(names)))
    return Workload("angles", texts, vectors, prompts, seeds=None if seeds is None else np.asarray(seeds, np.int64))


def ground(angles: Sequence[float], setup: Setup, seeds: list[int] | None = None) -> Ground:
    work = workload(angles, seeds)
    return make_ground(work, find_neighbours(work, floor=0.3), setup)


def angle(similarity: float) -> float:
    return math.degrees(math.acos(similarity))


def levels(angles: Sequence[float], setup: Setup, budget: int = UNBOUNDED, policy: str = "lru") -> list[int]:
    return replay(ground(angles, setup), make_eviction(policy, budget), budget).levels.tolist()


def test_the_paper_table_gives_each_similarity_its_level() -> None:
    for similarity, level in ((0.96, 4), (0.92, 3), (0.87, 2), (0.8, 1), (0.7, 0), (0.6, MISS)):
        assert levels([0, angle(similarity)], nirvana()) == [MISS, level]


def test_only_full_runs_are_stored_under_nirvana_and_later_states_otherwise() -> None:
    # 0.87 apart: K = 15 of 50, so the second run computes the states at 20 and 25 itself.
    step = angle(0.87)
    assert levels([0, step, step], nirvana()) == [MISS, 2, 2]
    assert levels([0, step, step], headstart()) == [MISS, 2, 4]


def test_the_chain_of_resumes_is_bounded() -> None:
    step = angle(0.87)
    assert levels([0, step, step], replace(headstart(), max_depth=0)) == [MISS, 2, 2]


@pytest.mark.parametrize(("candidates", "level"), [(1, 0), (8, 4)])
def test_a_hole_in_the_nearest_does_not_matter_with_several_candidates(candidates: int, level: int) -> None:
    run = _Pass(ground([10, 15, 0], replace(nirvana(), candidates=candidates)), make_eviction("fifo", 0), UNBOUNDED)
    run._admit(0, 0, (0,), 0)
    run._admit(1, 1, (0, 1, 2, 3, 4), 0)
    assert run._find(2) == (level, 0 if candidates == 1 else 1)


def test_levels_agree_with_the_service_s_matching_policy() -> None:
    rng = np.random.default_rng(3)
    skips = States().skips
    for _ in range(200):
        similarity = round(float(rng.uniform(0.55, 1.0)), 4)
        states = tuple(StateRef(float(i), skip, True) for i, skip in enumerate(skips))
        found = PaperTableMatching().choose("new", [Candidate(1, similarity, "old", states)])
        expected = skips.index(found.attempts[0].state.skip) if found.attempts else MISS
        # From the angle's own cosine, as float32 arithmetic gives it back.
        assert levels([0, angle(similarity)], nirvana()) == [MISS, expected], similarity


def test_the_judging_state_must_be_there_for_another_text() -> None:
    table = load_matching(Path("models/scenes-unet/matching.json"))
    assert table.judge_bit(States().skips) == 1
    assert levels([0, angle(0.95)], headstart(table)) == [MISS, 4]
    one_object = 32 * 1024
    # Room for one state, the deepest: it serves its own text, and no other, for the judging one is gone.
    assert levels([0, 0, angle(0.95)], headstart(table), one_object, "fifo")[2] == MISS


def test_a_table_that_judges_where_no_state_is_kept_is_refused() -> None:
    table = load_matching(Path("models/scenes-unet/matching.json"))
    with pytest.raises(MatchingError, match="no state is kept near it"):
        table.judge_bit((0.4, 0.5))


def test_texts_that_differ_in_numbers_are_vetoed() -> None:
    texts = ("two cats", "three cats", "two cats again")
    vectors = np.ones((3, 1), np.float32)
    work = Workload("veto", np.arange(3, dtype=np.int32), vectors, texts)
    table = Matching("veto", fixed(0.5, States().skips).rows, veto=frozenset({"numbers"}))
    on = make_ground(work, find_neighbours(work, floor=0.3), headstart(table))
    assert unbounded(on).levels.tolist() == [MISS, MISS, 4]


def test_the_veto_of_the_simulator_is_that_of_the_policy() -> None:
    texts = (
        "a red ball left of a box",
        "a box left of a red ball",
        "a blue ball left of a box",
        "two balls",
        "a ball",
    )
    work = Workload("veto", np.arange(5, dtype=np.int32), np.ones((5, 1), np.float32), texts)
    near = find_neighbours(work, floor=0.3)
    for kinds in (frozenset({"colours"}), frozenset({"relations", "numbers"}), KINDS):
        masks = Matching("veto", fixed(0.5, States().skips).rows, veto=kinds).masks(near, States().skips, texts)
        rows = np.repeat(np.arange(5), np.diff(near.starts))
        expected = [
            not lexical_veto(texts[one], texts[other], kinds) for one, other in zip(rows, near.texts, strict=True)
        ]
        assert (masks > 0).tolist() == expected


def test_requests_with_seeds_are_exact_repeats_or_full_runs() -> None:
    on = ground([0, 0, 0, 0], replace(headstart(), honour_seeds=True), seeds=[7, 7, 8, -1])
    done = unbounded(on)
    assert done.levels.tolist() == [MISS, EXACT, MISS, 4]
    assert done.saved.tolist() == [0.0, 1.0, 0.0, 0.5]


def test_modm_keeps_a_window_of_pictures() -> None:
    setup = modm()
    size = setup.states.nbytes
    assert levels([0, 90, 0], setup, 2 * size, "fifo") == [MISS, MISS, 4]
    assert levels([0, 90, 200, 0], setup, 2 * size, "fifo") == [MISS] * 4


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_bytes_stay_within_the_budget_and_add_up(name: str) -> None:
    work = synthetic_workload(1500, 1)
    on = make_ground(work, find_neighbours(work, floor=0.65), headstart())
    budget = 60 * on.setup.states.nbytes
    done = replay(on, make_eviction(name, budget), budget)
    assert 0 < done.peak_bytes <= budget
    assert done.final_bytes == (done.writes - done.evictions) * on.setup.states.nbytes
    assert done.saved.mean() <= ceiling(on).mean() + 1e-6


def test_with_room_for_everything_all_policies_do_the_same() -> None:
    work = synthetic_workload(800, 2)
    on = make_ground(work, find_neighbours(work, floor=0.65), headstart())
    free = unbounded(on)
    for name in POLICIES:
        assert (replay(on, make_eviction(name, free.final_bytes), free.final_bytes).levels == free.levels).all()


def test_the_oracle_beats_every_policy() -> None:
    work = synthetic_workload(3000, 4)
    on = make_ground(work, find_neighbours(work, floor=0.65), headstart())
    free = unbounded(on)
    makers = {name: named(name) for name in POLICIES} | {"oracle": oracle(on, free)}
    rows = [row for row, _ in compare(on, makers, [Size(free.final_bytes // 50)], free=free)]
    assert max(rows, key=lambda row: row.saved).policy == "oracle"


def test_neighbours_by_index_are_nearly_those_of_all_pairs() -> None:
    work = synthetic_workload(12_000, 5)
    saved = []
    for exact in (True, False):
        near = find_neighbours(work, floor=0.65, exact=exact)
        on = make_ground(work, near, headstart())
        budget = unbounded(on).final_bytes // 20
        saved.append(replay(on, make_eviction("lru", budget), budget).saved.mean())
    assert saved[1] == pytest.approx(saved[0], rel=0.02)


def test_equal_seeds_give_equal_workloads() -> None:
    one, same, other = (synthetic_workload(500, seed) for seed in (1, 1, 2))
    assert (one.vectors == same.vectors).all()
    assert (one.texts == same.texts).all()
    assert len(one) == len(other) == 500
    assert one.texts.tolist() != other.texts.tolist()


def test_vectors_are_computed_once_and_survive_a_cut_file(tmp_path: Path) -> None:
    asked: list[str] = []

    def embed(prompts: Sequence[str]) -> np.ndarray:
        asked.extend(prompts)
        return np.asarray([[len(prompt), 1.0] for prompt in prompts], np.float32)

    first = EmbeddingCache(tmp_path, "e").vectors(["a", "bb"], embed, quiet=True)
    again = EmbeddingCache(tmp_path, "e").vectors(["bb", "a", "ccc"], embed, quiet=True)
    assert asked == ["a", "bb", "ccc"]
    assert (again[:2] == first[::-1]).all()
    (tmp_path / "e.npy").write_bytes(b"\x93NUMPY")
    assert (EmbeddingCache(tmp_path, "e").vectors(["a"], embed, quiet=True) == first[:1]).all()


def test_the_smallest_cache_that_is_good_enough_is_recommended() -> None:
    def row(policy: str, budget: int, saved: float) -> Row:
        return Row("headstart", policy, None, budget, saved, 0, 0, 0, 0, (), 0, 0, 0, 0, 0, 0, None, 0)

    rows = [row("lru", 10, 0.1), row("lru", 20, 0.197), row("lhd", 20, 0.199), row("lru", 40, 0.2)]
    advice = recommend(rows)
    assert (advice.row.policy, advice.row.budget) == ("lhd", 20)
    assert "smallest cache" in advice.reason
    assert "leave approximate hits off" in recommend([row("lru", 10, 0.0)]).reason


def test_sizes_are_shares_or_bytes() -> None:
    assert parse_sizes("5%, 64MiB,10b", 1000) == [Size(50, 0.05), Size(64 * 2**20), Size(10)]
    for bad in ("much", "-5%", "0", "nan%"):
        with pytest.raises(SetupError, match="a cache size is"):
            parse_sizes(bad, 1000)


def test_a_set_up_that_makes_no_sense_is_refused() -> None:
    with pytest.raises(SetupError, match="form final"):
        replace(headstart(), admission="everything")
    with pytest.raises(SetupError, match="levels"):
        States((0.5, 0.1))
    with pytest.raises(MatchingError, match="cannot be read"):
        load_matching(Path("nowhere.json"))
    assert PAPER.floor == 0.65


def test_a_log_is_simulated_end_to_end(tmp_path: Path) -> None:
    def embed(prompts: Sequence[str]) -> np.ndarray:
        rows = np.stack([np.random.default_rng(len(prompt)).standard_normal(8) for prompt in prompts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    options = Options(SAMPLE, tmp_path / "out", tmp_path / "vectors", policies="lru,lhd", sizes="5%,1MiB", quiet=True)
    said: list[str] = []
    run_simulation(options, embed, "lengths", said.append)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert {(row["setup"], row["policy"]) for row in report["rows"]} == {
        ("headstart", "lru"), ("headstart", "lhd"), ("headstart", "oracle"), ("nirvana", "lcbfu"), ("modm", "fifo"),
    }  # fmt: skip
    assert report["recommended"]["policy"] in ("lru", "lhd")
    assert (tmp_path / "out/saved.png").stat().st_size > 1000
    assert "Recommended: policy" in said[-1]
