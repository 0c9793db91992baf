"""What every engine must do, in-process or not."""

import asyncio
import os
import signal
import time
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import psutil
import pytest
import pytest_asyncio
from engine_helpers import alone, collect, point, spec

from service.engine import EngineConfig, make_engine
from service.engine.base import EngineStartError, JobResult, Progress

SLOW = {"steps": 400}


def config(model, kind, **changes):
    return EngineConfig(**{"model": str(model), "device": "cpu", "kind": kind, "threads": 1, **changes})


# One engine per kind for all tests of this file: a process takes seconds to load its libraries.
pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture(params=["local", "process"], scope="module")
def kind(request):
    return request.param


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(kind, tiny_model):
    engine = make_engine(config(tiny_model, kind))
    await engine.start()
    yield engine
    await engine.close()


def rows_run(stats):
    return sum(rows * count for rows, count in stats.batch_sizes.items())


async def until(condition):
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is awaited happens in another process
            await asyncio.sleep(0.01)


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
        before = engine.stats
        ends = await asyncio.gather(*(collect(engine, spec(f"j{i}", seed=i)) for i in range(20)))
        assert all(isinstance(end[-1], JobResult) for end in ends)
        stats = engine.stats
        assert (stats.active, stats.waiting, stats.restarts, stats.ready) == (0, 0, 0, True)
        assert rows_run(stats) - rows_run(before) == 20 * 8
        assert max(stats.batch_sizes) == 8
        assert stats.step_seconds > 0
        assert engine.info.default_steps == 8

    async def test_closing_the_iterator_cancels_at_the_next_step(self, engine):
        before = rows_run(engine.stats)
        async with aclosing(engine.run(spec("slow", **SLOW))) as events:
            assert isinstance(await anext(events), Progress)
        assert isinstance((await collect(engine, spec("after")))[-1], JobResult)
        assert engine.stats.active == 0
        assert rows_run(engine.stats) - before < 200

    async def test_cancelling_the_task_cancels_the_job(self, engine):
        task = asyncio.create_task(collect(engine, spec("slow", **SLOW)))
        await collect(engine, spec("beside"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance((await collect(engine, spec("slow")))[-1], JobResult)

    async def test_a_bad_job_fails_alone(self, engine):
        bad, good = await asyncio.gather(
            collect(engine, spec("x", solver="no such solver")), collect(engine, spec("y"))
        )
        assert bad[-1].code == "internal"
        assert "euler" not in bad[-1].message
        assert isinstance(good[-1], JobResult)

    async def test_an_id_that_is_running_is_refused(self, engine):
        async with aclosing(engine.run(spec("same", **SLOW))) as events:
            await anext(events)
            with pytest.raises(ValueError, match="same"):
                await anext(engine.run(spec("same")))

    async def test_close_with_grace_lets_jobs_finish(self, kind, tiny_model):
        engine = make_engine(config(tiny_model, kind))
        await engine.start()
        running = asyncio.create_task(collect(engine, spec(steps=60)))
        await asyncio.sleep(0)
        await engine.close(grace_seconds=60.0)
        assert isinstance((await running)[-1], JobResult)
        assert not engine.stats.ready
        assert (await collect(engine, spec()))[-1].code == "cancelled"

    async def test_close_without_grace_cancels(self, kind, tiny_model):
        engine = make_engine(config(tiny_model, kind))
        await engine.start()
        running = asyncio.create_task(collect(engine, spec(steps=999)))
        await until(lambda: engine.stats.active)
        await engine.close()
        assert (await running)[-1].code == "cancelled"

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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def supervised(tiny_model):
    engine = make_engine(config(tiny_model, "process"))
    await engine.start()
    yield engine
    await engine.close()


class TestSupervision:
    async def test_a_killed_engine_costs_time_not_pictures(self, supervised, pipeline):
        items = [spec(f"k{i}", seed=i, steps=100, capture=(0.5,)) for i in range(3)]
        tasks = [asyncio.create_task(collect(supervised, item)) for item in items]
        await until(lambda: supervised.stats.active == 3)
        os.kill(supervised.pid, signal.SIGKILL)
        ends = [end[-1] for end in await asyncio.gather(*tasks)]
        assert supervised.stats.restarts == 1
        assert supervised.stats.ready
        for item, end in zip(items, ends, strict=True):
            assert end.restarts == 1
            difference = end.image.astype(int) - alone(pipeline, item).image
            assert np.abs(difference).max() <= 1

    async def test_a_job_there_at_three_deaths_is_given_up_and_its_batch_mate_is_not(self, supervised):
        poison = asyncio.create_task(collect(supervised, spec("poison", steps=1000)))
        innocent = asyncio.create_task(collect(supervised, spec("innocent", steps=300)))
        for _ in range(2):
            await until(lambda: supervised.stats.active == 2)
            os.kill(supervised.pid, signal.SIGKILL)
            await until(lambda: not supervised.stats.ready)
        await until(lambda: supervised.stats.active == 1)
        late = asyncio.create_task(collect(supervised, spec("late")))
        await asyncio.sleep(0.3)
        assert supervised.stats.active == 1, "a suspect is tried alone"
        os.kill(supervised.pid, signal.SIGKILL)
        assert (await poison)[-1].code == "engine-lost"
        assert (await late)[-1].restarts == 0
        end = (await innocent)[-1]
        assert isinstance(end, JobResult)
        assert end.restarts == 2

    async def test_a_deadline_holds_while_there_is_no_engine(self, supervised):
        task = asyncio.create_task(collect(supervised, spec(steps=1000, deadline=time.monotonic() + 1.0)))
        await until(lambda: supervised.stats.active == 1)
        os.kill(supervised.pid, signal.SIGKILL)
        end = (await asyncio.wait_for(task, 4.0))[-1]
        assert end.code == "deadline"

    async def test_signals_do_not_reach_the_child_and_close_ends_it(self, supervised):
        pid, restarts = supervised.pid, supervised.stats.restarts
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
        assert isinstance((await collect(supervised, spec()))[-1], JobResult)
        assert supervised.stats.restarts == restarts
        await supervised.close()
        assert not psutil.pid_exists(pid)
        assert supervised.pid is None
