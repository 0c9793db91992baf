"""What every engine must do, in-process or not."""

import asyncio
import os
import signal
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import psutil
import pytest
from engine_helpers import alone, collect, point, spec

from service.engine import EngineConfig, make_engine
from service.engine.base import EngineStartError, JobFailed, JobResult, Progress

SLOW = {"steps": 400}


def config(model, kind, **changes):
    return EngineConfig(**{"model": str(model), "device": "cpu", "kind": kind, "threads": 1, **changes})


@pytest.fixture(params=["local", "process"])
def kind(request):
    return request.param


@pytest.fixture
async def engine(kind, tiny_model):
    engine = make_engine(config(tiny_model, kind))
    await engine.start()
    yield engine
    await engine.close()


class TestEveryEngine:
    async def test_the_way_of_a_job_and_of_its_resume(self, engine, pipeline):
        item = spec(capture=(0.25, 0.5), preview_every=4)
        *progress, full = await collect(engine, item)
        assert isinstance(full, JobResult)
        assert [p.step for p in progress] == list(range(9))
        assert [p.step for p in progress if p.preview is not None] == [4]
        np.testing.assert_array_equal(full.image, alone(pipeline, item).image)

        resumed_item = replace(item, job_id="b", resume=(point(full.captured[1], 0.0),))
        *progress, resumed = await collect(engine, resumed_item)
        assert [p.step for p in progress] == [4, 5, 6, 7, 8]
        assert (resumed.resumed, resumed.skipped, resumed.wasted) == (0, 4, 0)
        np.testing.assert_array_equal(resumed.image, full.image)

    async def test_many_jobs_at_once_and_statistics(self, engine):
        ends = await asyncio.gather(*(collect(engine, spec(f"j{i}", seed=i)) for i in range(20)))
        assert all(isinstance(end[-1], JobResult) for end in ends)
        stats = engine.stats
        assert (stats.active, stats.waiting, stats.restarts, stats.ready) == (0, 0, 0, True)
        assert sum(rows * count for rows, count in stats.batch_sizes.items()) == 20 * 8
        assert stats.step_seconds > 0
        assert engine.info.default_steps == 8

    async def test_closing_the_iterator_cancels_at_the_next_step(self, engine):
        async with aclosing(engine.run(spec("slow", **SLOW))) as events:
            first = await anext(events)
            assert isinstance(first, Progress)
        assert isinstance((await collect(engine, spec("after")))[-1], JobResult)
        assert engine.stats.active == 0
        assert sum(engine.stats.batch_sizes.values()) < 200

    async def test_cancelling_the_task_cancels_the_job(self, engine):
        task = asyncio.create_task(collect(engine, spec("slow", **SLOW)))
        await collect(engine, spec("beside"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance((await collect(engine, spec("slow")))[-1], JobResult)

    async def test_a_bad_job_fails_alone(self, engine):
        bad, good = await asyncio.gather(collect(engine, spec("x", solver="euler")), collect(engine, spec("y")))
        assert bad[-1].code == "internal"
        assert "euler" not in bad[-1].message
        assert isinstance(good[-1], JobResult)

    async def test_an_id_that_is_running_is_refused(self, engine):
        async with aclosing(engine.run(spec("same", **SLOW))) as events:
            await anext(events)
            with pytest.raises(ValueError, match="same"):
                await anext(engine.run(spec("same")))

    async def test_close_with_grace_lets_jobs_finish_and_without_cancels_them(self, kind, tiny_model):
        for grace, ending in ((30.0, JobResult), (0.0, JobFailed)):
            engine = make_engine(config(tiny_model, kind))
            await engine.start()
            task = asyncio.create_task(collect(engine, spec(steps=100 if grace else 900)))
            await asyncio.sleep(0.2)
            await engine.close(grace_seconds=grace)
            assert isinstance((await task)[-1], ending)
            assert (await collect(engine, spec()))[-1].code == "cancelled"

    async def test_a_model_that_cannot_be_loaded_is_one_clear_line(self, kind, tmp_path):
        engine = make_engine(config(tmp_path, kind))
        with pytest.raises(EngineStartError, match=r"model_index\.json") as caught:
            await engine.start()
        assert "\n" not in str(caught.value)
        await engine.close()

    async def test_before_start(self, kind, tiny_model):
        engine = make_engine(config(tiny_model, kind))
        assert not engine.stats.ready
        with pytest.raises(RuntimeError):
            _ = engine.info
        with pytest.raises(RuntimeError):
            await anext(engine.run(spec()))


class TestSupervision:
    @pytest.fixture
    async def engine(self, tiny_model):
        engine = make_engine(config(tiny_model, "process"))
        await engine.start()
        yield engine
        await engine.close()

    async def test_a_killed_engine_costs_time_not_pictures(self, engine, pipeline):
        items = [spec(f"k{i}", seed=i, steps=100, capture=(0.5,)) for i in range(3)]
        tasks = [asyncio.create_task(collect(engine, item)) for item in items]
        await asyncio.sleep(0.3)
        os.kill(engine.pid, signal.SIGKILL)
        ends = [end[-1] for end in await asyncio.gather(*tasks)]
        assert engine.stats.restarts == 1
        assert engine.stats.ready
        for item, end in zip(items, ends, strict=True):
            assert end.restarts == 1
            close = np.abs(end.image.astype(int) - alone(pipeline, item).image.astype(int)).max()
            assert close <= 1

    async def test_jobs_there_at_three_deaths_are_given_up(self, engine):
        task = asyncio.create_task(collect(engine, spec("poison", steps=1000)))
        for _ in range(3):
            while not engine.stats.active:
                await asyncio.sleep(0.02)
            os.kill(engine.pid, signal.SIGKILL)
            while engine.stats.active:
                await asyncio.sleep(0.02)
        assert (await task)[-1].code == "engine-lost"
        assert isinstance((await collect(engine, spec("innocent")))[-1], JobResult)

    async def test_interrupts_do_not_reach_the_child_and_close_ends_it(self, engine):
        pid = engine.pid
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert isinstance((await collect(engine, spec()))[-1], JobResult)
        assert engine.stats.restarts == 0
        await engine.close()
        assert not psutil.pid_exists(pid)
        assert engine.pid is None
