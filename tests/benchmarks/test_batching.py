import asyncio
import cProfile
import pstats
import threading
import time
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from torch import Tensor

from benchmarks import batching
from benchmarks.batching import (
    HEADLINE_MIX,
    MIXES,
    NONE,
    Effort,
    Turn,
    acceptance,
    all_rounds,
    figures,
    rotated,
    same_pictures,
)
from benchmarks.live import free_port
from benchmarks.results import batching_table
from benchmarks.serving.app import captured_states, make_app
from benchmarks.serving.load import Answer, Window
from benchmarks.serving.loop_share import Shares, Timed, covered, dearest, own_costs
from benchmarks.serving.systems import Batches, Joined, Specs, apart_draw
from benchmarks.serving.wishes import BLOCK, SKIPS, Mix, Stage, Wish, wish_stream
from service.engine import EngineConfig, make_engine
from service.engine.base import Pipeline, Rows
from service.engine.loading import load_pipeline
from service.engine.loop import StepLoop
from training.lab import resume_point


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from benchmarks.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("tiny-batching"))


@pytest.mark.parametrize("mix", [NONE, *MIXES], ids=lambda mix: mix.name)
def test_every_block_of_a_mix_holds_its_share_of_hits_and_each_k_equally_often(mix: Mix) -> None:
    stream = list(islice(wish_stream(Stage(pairs=4).neighbours, mix), 3 * BLOCK))
    for start in range(0, len(stream), BLOCK):
        entries = [wish.entry for wish in stream[start : start + BLOCK] if wish.entry]
        assert len(entries) == mix.hits * BLOCK // 100
        assert {entries.count(k) for k in mix.skips} <= {len(entries) // len(mix.skips)}
    mean = np.mean([50 - wish.entry for wish in stream])
    assert mix.evaluations(50) == pytest.approx(mean)


def test_mixes_differ_in_entries_alone() -> None:
    pairs = Stage(pairs=4).neighbours
    plain, mixed = (list(islice(wish_stream(pairs, mix), BLOCK)) for mix in (NONE, HEADLINE_MIX))
    assert [(w.prompt, w.seed, w.source) for w in plain] == [(w.prompt, w.seed, w.source) for w in mixed]
    assert {w.entry for w in mixed} == {0, *SKIPS}


def test_a_later_round_asks_for_what_comes_later_in_the_stream() -> None:
    pairs = Stage(pairs=4).neighbours
    whole = list(islice(wish_stream(pairs, HEADLINE_MIX), 2 * BLOCK))
    assert list(islice(wish_stream(pairs, HEADLINE_MIX, BLOCK), BLOCK)) == whole[BLOCK:]


def test_a_window_leaves_out_what_fills_the_batch() -> None:
    answers = [Answer(latency=1.0 + n, finished=10.0 + n, evaluations=50 * n) for n in range(10)]
    window = Window.of(answers[::-1], warm=2, measured=6)
    assert (window.seconds, window.evaluations, window.finished) == (6.0, 300, 6)
    assert window.latencies == (3.0, 4.0, 5.0, 6.0, 7.0, 8.0)
    assert window.pictures_per_second(50) == pytest.approx(1.0)


def test_rotation_keeps_every_turn() -> None:
    turns = [Turn("joined", mix) for mix in MIXES]
    assert rotated(turns, 1) == [*turns[1:], turns[0]]


def windows(rates: dict[str, float], mixes: tuple[Mix, ...]) -> dict[Turn, list[Window]]:
    """Two rounds in which each system makes so many evaluations a second."""
    turns = [Turn(name, NONE) for name in ("diffusers_one", "diffusers_static", "uncached", "apart")]
    turns += [Turn(name, mix) for mix in mixes for name in ("apart", "joined")]
    return {turn: [Window(10.0, int(10 * rates[turn.system]), 8, (1.0, 2.0))] * 2 for turn in turns}


@cache
def report_of(joined: float = 110.0) -> dict:
    rates = {"diffusers_one": 50.0, "diffusers_static": 100.0, "uncached": 110.0, "apart": 80.0, "joined": joined}
    stage = Stage()
    shared = {"dtype": "float32", "steps": 50, "solver": "ddim", "max_batch": 8, "rounds": 2}
    return shared | figures(stage, windows(rates, MIXES))


def test_equal_evaluation_rates_realise_the_whole_step_count_ratio() -> None:
    section = report_of()
    at_75 = section["mixes"]["75 %"]
    assert at_75["step_count_ratio"] == pytest.approx(50 / 38.75)
    assert at_75["joined_over_uncached"]["value"] == pytest.approx(at_75["step_count_ratio"])
    assert at_75["realised_over_ideal"]["value"] == pytest.approx(1.0)
    assert at_75["joined_over_apart"]["value"] == pytest.approx(110 / 80)
    assert section["uncached_over_static"]["value"] == pytest.approx(1.1)
    assert section["mixes"]["75 %, K = 25"]["joined_over_uncached"]["value"] == pytest.approx(1.6)


def test_acceptance_says_what_was_met_and_what_could_be() -> None:
    met = acceptance(report_of())
    assert not met["joined_over_uncached_75_met"]
    assert met["step_count_ratio_75"] < met["joined_over_uncached_75_at_least"]
    assert met["realised_over_ideal_met"]
    assert not acceptance(report_of(100.0))["realised_over_ideal_met"]


def test_the_table_shows_every_system_mix_and_model() -> None:
    section = report_of()
    row = {"batch": 8, "network": 0.9, "decoder": 0.05, "outside": 0.05, "outside_network": 0.1}
    row |= {"step_ms_outside": 1.0, "step_ms": 20.0}
    models = {"scenes-unet": {"batches": [row], "dearest": [{"function": "loop.py: tick", "share_of_outside": 0.5}]}}
    loop = {"dtype": "float32", "steps": 50, "models": models}
    text = "\n".join(batching_table({"sections": [section], "loop": loop, "acceptance": acceptance(section)}))
    for words in ("| diffusers_one | any |", "| joined | 75 % | 25 |", "| 75 % | **1.290", "loop.py: tick"):
        assert words in text


def test_time_in_both_networks_counts_once() -> None:
    assert covered([(0.0, 2.0), (1.0, 3.0), (5.0, 6.0)]) == 4.0
    shares = Shares.of([("network", 0.0, 6.0), ("decoder", 5.0, 8.0)], 10.0)
    assert (shares.network, shares.decoder) == (0.6, 0.3)
    assert shares.outside == pytest.approx(0.2)


def test_the_profile_names_functions_of_the_engine(tiny: Path) -> None:
    named = dearest(load_pipeline(str(tiny), "cpu", "float32"), batch=2, steps=3)
    assert len(named) == 3
    assert all(".py: " in one["function"] and 0 < one["share_of_outside"] < 1 for one in named)


def test_the_denoiser_is_no_cost_of_the_loop(tiny: Path) -> None:
    from engine_helpers import spec

    class Slow:
        """A denoiser that takes most of the time, as a real one does."""

        def __init__(self, pipeline: Pipeline) -> None:
            self._pipeline = pipeline

        def __getattr__(self, name: str) -> Any:
            return getattr(self._pipeline, name)

        def predict(self, rows: Rows) -> Tensor:
            time.sleep(0.2)
            return self._pipeline.predict(rows)

    timed = Timed(Slow(load_pipeline(str(tiny), "cpu", "float32")))
    loop = StepLoop(timed, max_batch=2)
    for name in "ab":
        loop.submit(spec(name, steps=4), 0.0)
    profile = cProfile.Profile()
    profile.runcall(lambda: [loop.tick() for _ in range(3)])
    denoiser = sum(end - start for kind, start, end in timed.spans if kind == "network")
    assert denoiser > 0.6
    assert sum(own_costs(pstats.Stats(profile)).values()) < 0.8 * denoiser


@pytest.fixture
def served(tiny: Path) -> Iterator[tuple[str, Stage]]:
    """The app over the tiny model, behind a real server."""
    stage = Stage(steps=4, skips=(1, 2), pairs=2, max_batch=2, model=str(tiny))
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(make_app(stage), host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.05)
    yield f"http://127.0.0.1:{port}", stage
    server.should_exit = True
    thread.join()


def test_a_full_measurement_of_a_tiny_model(served: tuple[str, Stage]) -> None:
    url, stage = served
    differences = same_pictures(url, stage)
    assert set(differences) == {"diffusers_one", "diffusers_static", "uncached", "apart", "joined"}
    assert max(differences.values()) < 1.0
    mix = Mix(75, (1, 2))
    windows = all_rounds(url, stage, Effort(1, (mix,)), quiet=True)
    for turn, (window,) in windows.items():
        assert window.seconds > 0, turn
        assert window.evaluations > 0, turn
        assert window.finished >= 2, turn
    full = windows[Turn("diffusers_static", NONE)][0]
    assert full.evaluations == full.finished * stage.steps
    assert figures(stage, windows)["mixes"]["75 %"]["joined_over_uncached"]["value"] > 0


def test_the_headline_has_its_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    models = {
        "scenes-unet": {"batches": [{"batch": 1, "outside": 0.3}, {"batch": 8, "outside": 0.05}], "dearest": []}
    }
    monkeypatch.setattr(batching, "measure", lambda stage, effort, quiet: report_of())
    monkeypatch.setattr(batching, "measure_shares", lambda dtype, steps, quick, quiet: models)
    headline = batching.run(quick=True, quiet=True)["headline"]
    assert headline == pytest.approx(
        {
            "joined_over_uncached_75": 50 / 38.75,
            "joined_over_apart_75": 110 / 80,
            "uncached_over_static": 1.1,
            "loop_overhead_share": 0.05,
        }
    )


async def test_joined_and_apart_draw_the_same_pictures(tiny: Path) -> None:
    stage = Stage(steps=4, skips=(1, 2), pairs=2, max_batch=2, model=str(tiny))
    engine = make_engine(EngineConfig(model=str(tiny), kind="local", dtype="float32", max_batch=2))
    await engine.start()
    states = await captured_states(stage, engine)
    assert set(states) == {(source, k) for source in (0, 1) for k in (1, 2)}
    specs = Specs(stage, engine.info, states)
    seen: list[set[int]] = []
    inner = apart_draw(load_pipeline(str(tiny), "cpu", "float32"), stage, specs)

    def watched(wishes, gone):
        seen.append({wish.entry for wish in wishes})
        return inner(wishes, gone)

    apart = Batches(watched, 2, lambda wish: wish.entry, lambda wish: stage.steps - wish.entry)
    joined = Joined(engine, specs)
    wishes = [Wish("a red cube", n, n % 2, k) for n, k in enumerate((0, 1, 2, 0, 1, 0))]
    pictures = [await asyncio.gather(*(system.draw(wish) for wish in wishes)) for system in (apart, joined)]
    for one, other in zip(*pictures, strict=True):
        assert np.abs(one.astype(int) - other.astype(int)).max() <= 1
    assert all(len(entries) == 1 for entries in seen)
    assert apart.evaluations == sum(4 - wish.entry for wish in wishes)
    assert joined.evaluations == apart.evaluations + 2 * 4  # the two captured runs
    apart.close()
    await engine.close()


def test_a_request_that_did_not_resume_is_no_measurement(tiny: Path) -> None:
    from engine_helpers import alone, spec

    from benchmarks.serving.systems import picture_of

    pipeline = load_pipeline(str(tiny), "cpu", "float32")
    source = alone(pipeline, spec("source", steps=4, capture=(0.5,)))
    wanted = spec("wanted", steps=4, resume=(resume_point(source.captured[0]),))
    with pytest.raises(RuntimeError, match="did not enter"):
        picture_of(alone(pipeline, spec("wanted", steps=4)), wanted)
    assert picture_of(alone(pipeline, wanted), wanted).shape == (32, 32, 3)
