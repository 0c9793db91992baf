"""A minimal FastAPI app over all systems, in a process of its own: `python -m benchmarks.serving.app PORT STAGE`."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import torch
import uvicorn
from diffusers import StableDiffusionPipeline
from fastapi import FastAPI, Response

from benchmarks.serving.systems import Batches, Joined, Specs, States, System, apart_draw, diffusers_draw
from benchmarks.serving.wishes import FEATURES, Stage, Wish
from service.engine import EngineConfig, make_engine
from service.engine.base import Engine, JobFailed, JobResult, JobSpec
from service.engine.loading import DTYPES, load_pipeline
from service.pictures import encode
from training.export import load_pipeline as load_diffusers
from training.lab import resume_point
from training.sampling import with_solver

PATIENCE, LOOK_EVERY = 60.0, 0.01
"""Most seconds a stopped system may take to come to rest."""


class Stand:
    """The systems by name, and the requests that are running."""

    def __init__(self) -> None:
        self.systems: dict[str, System] = {}
        self.running: set[asyncio.Task[bytes]] = set()

    async def answer(self, system: System, wish: Wish) -> Response:
        """Draw and encode one picture; 503 if it was dropped meanwhile."""
        drawing = asyncio.create_task(_drawn(system, wish))
        self.running.add(drawing)
        try:
            png = await drawing
        except asyncio.CancelledError:
            if not drawing.cancelled():
                raise
            return Response(status_code=503)
        finally:
            self.running.discard(drawing)
        facts = {"X-Finished": repr(time.monotonic()), "X-Evaluations": str(system.evaluations)}
        return Response(png, media_type="image/png", headers=facts)

    async def stop(self) -> None:
        """Drop every request and wait until nothing runs.

        Raises:
            TimeoutError: a system did not come to rest.
        """
        for drawing in self.running:
            drawing.cancel()
        for _ in range(int(PATIENCE / LOOK_EVERY)):
            if not any(system.busy for system in self.systems.values()):
                return
            await asyncio.sleep(LOOK_EVERY)
        raise TimeoutError(f"still running after {PATIENCE:.0f} s")


async def _drawn(system: System, wish: Wish) -> bytes:
    return await asyncio.to_thread(encode, await system.draw(wish))


def make_app(stage: Stage) -> FastAPI:
    """The app: POST /draw/SYSTEM answers a PNG, POST /stop drops what runs, GET /readyz tells that it is loaded."""
    stand = Stand()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        engine = make_engine(
            EngineConfig(model=stage.model, kind="local", dtype=stage.dtype, max_batch=stage.max_batch)
        )
        await engine.start()
        stand.systems = await make_systems(stage, engine)
        yield
        for system in stand.systems.values():
            if isinstance(system, Batches):
                system.close()
        await engine.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/draw/{name}")
    async def draw(name: str, wish: Wish) -> Response:
        return await stand.answer(stand.systems[name], wish)

    @app.post("/stop")
    async def stop() -> None:
        await stand.stop()

    @app.get("/readyz")
    async def ready() -> None:
        return None

    return app


async def make_systems(stage: Stage, engine: Engine) -> dict[str, System]:
    """All systems over the same weights, in this one process: the same threads, the same number type."""
    info = engine.info
    states = await captured_states(stage, engine)
    plain, with_hits = Specs(stage, info, {}), Specs(stage, info, states)
    diffusers = diffusers_draw(_diffusers(stage), stage, info)
    apart = apart_draw(load_pipeline(stage.model, dtype=stage.dtype), stage, with_hits)

    def full(wish: Wish) -> int:
        return stage.steps

    def after_entry(wish: Wish) -> int:
        return stage.steps - wish.entry

    return {
        "diffusers_one": Batches(diffusers, 1, lambda wish: 0, full),
        "diffusers_static": Batches(diffusers, stage.max_batch, lambda wish: 0, full),
        "uncached": Joined(engine, plain),
        "apart": Batches(apart, stage.max_batch, lambda wish: wish.entry, after_entry),
        "joined": Joined(engine, with_hits),
        **{name: Joined(engine, Specs(stage, info, states, choice)) for name, choice in FEATURES.items()},
    }


def _diffusers(stage: Stage) -> StableDiffusionPipeline:
    pipeline = with_solver(load_diffusers(Path(stage.model)), "ddim")
    return pipeline.to("cuda" if torch.cuda.is_available() else "cpu", DTYPES[stage.dtype])


async def captured_states(stage: Stage, engine: Engine) -> States:
    """Run the neighbours in full and keep a state of each at every K; no state is judged by the gate."""
    shares = tuple(k / stage.steps for k in stage.skips)
    plain = Specs(stage, engine.info, {})
    wishes = [Wish(pair.source.text, 10_000 + number, 0, 0) for number, pair in enumerate(stage.neighbours)]
    specs = [replace(plain.make(wish), capture=shares) for wish in wishes]
    results = await asyncio.gather(*(_finished(engine, spec) for spec in specs))
    return {
        (number, round(state.skip * stage.steps)): replace(resume_point(state), prediction=None)
        for number, result in enumerate(results)
        for state in result.captured
    }


async def _finished(engine: Engine, spec: JobSpec) -> JobResult:
    async for event in engine.run(spec):
        if isinstance(event, JobResult):
            return event
        if isinstance(event, JobFailed):
            raise RuntimeError(f"job {event.job_id} failed: {event.code}: {event.message}")
    raise RuntimeError(f"job {spec.job_id} ended without a result")


def main(arguments: Sequence[str]) -> None:
    """Serve on the loopback interface until SIGTERM."""
    port, fields = int(arguments[0]), json.loads(arguments[1])
    stage = Stage(**{**fields, "skips": tuple(fields["skips"])})
    uvicorn.run(make_app(stage), host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1:])
