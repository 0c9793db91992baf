from engine_helpers import collect, spec

from service.engine import EngineConfig, make_engine
from service.engine.base import JobResult, Progress


async def test_local_engine_draws_a_picture(tiny_model):
    engine = make_engine(EngineConfig(model=str(tiny_model), device="cpu", kind="local"))
    await engine.start()
    try:
        *progress, result = await collect(engine, spec(capture=(0.25, 0.5)))
    finally:
        await engine.close()
    assert isinstance(result, JobResult)
    assert result.image.shape == (32, 32, 3)
    assert [p.step for p in progress if isinstance(p, Progress)] == list(range(9))
    assert [s.skip for s in result.captured] == [0.25, 0.5]
