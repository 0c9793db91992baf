"""The systems compared: diffusers' pipeline alone and in static batches, the engine with joint and apart batches."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from itertools import count
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.serving.wishes import Stage, Wish
from policies.features.choice import FeatureChoice
from service.engine.base import Engine, ImageArray, JobFailed, JobResult, JobSpec, ModelInfo, Pipeline, ResumePoint
from service.engine.loop import StepLoop

LINGER = 0.01
"""Seconds a batch that is not full waits for requests that are on their way."""
States = Mapping[tuple[int, int], ResumePoint]
"""Captured states by (source, K)."""
Draw = Callable[[list[Wish], Callable[[], bool]], list[ImageArray]]
"""Runs a batch to its end; the callable tells whether all its clients have gone."""


class System(Protocol):
    """One way to serve requests."""

    @property
    def evaluations(self) -> int:
        """Network evaluations so far, one per picture and step."""

    @property
    def busy(self) -> bool:
        """Whether anything still runs."""

    async def draw(self, wish: Wish) -> ImageArray:
        """Answer one request; cancelling it drops the request."""


class Specs:
    """Turns requests into jobs of the engine.

    Args:
        stage: N and the solver.
        info: of the loaded model: guidance and size as it ships.
        states: where hits enter; without any, every request runs in full.
        features: what is reused inside the network; None = nothing.
    """

    def __init__(self, stage: Stage, info: ModelInfo, states: States, features: FeatureChoice | None = None) -> None:
        self._stage, self._info, self._states, self._features = stage, info, states, features
        self._numbers = count()

    def make(self, wish: Wish) -> JobSpec:
        """Return the job, with a fresh id."""
        point = self._states.get((wish.source, wish.entry))
        return JobSpec(
            job_id=f"{id(self)}-{next(self._numbers)}",
            prompt=wish.prompt,
            negative_prompt="",
            seed=wish.seed,
            steps=self._stage.steps,
            guidance_scale=self._info.default_guidance,
            solver=self._stage.solver,
            width=self._info.width,
            height=self._info.height,
            resume=() if point is None else (point,),
            features=self._features,
        )


class Joined:
    """The engine as it serves: every request joins the running batch at its own step."""

    def __init__(self, engine: Engine, specs: Specs) -> None:
        self._engine, self._specs = engine, specs

    @property
    def evaluations(self) -> int:
        """Network evaluations so far, as the engine counts them."""
        return sum(size * forwards for size, forwards in self._engine.stats.batch_sizes.items())

    @property
    def busy(self) -> bool:
        """Whether jobs are active or waiting."""
        return self._engine.stats.active + self._engine.stats.waiting > 0

    async def draw(self, wish: Wish) -> ImageArray:
        """Run one job."""
        spec = self._specs.make(wish)
        async with aclosing(self._engine.run(spec)) as events:
            async for event in events:
                if isinstance(event, JobResult | JobFailed):
                    return picture_of(event, spec)
        raise RuntimeError(f"job {spec.job_id} ended without a result")


class Batches:
    """Forms a batch of what waits, runs it to its end, then forms the next: one owner of the network, in turn.

    Args:
        draw: runs a batch, on a thread of its own.
        size: most requests per batch.
        key: requests share a batch only if it is the same; the one that waits longest decides which.
        cost: network evaluations of one request.
    """

    def __init__(self, draw: Draw, size: int, key: Callable[[Wish], int], cost: Callable[[Wish], int]) -> None:
        self._draw, self._size, self._key, self._cost = draw, size, key, cost
        self._waiting: list[tuple[Wish, asyncio.Future[ImageArray]]] = []
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1)
        self._owner = asyncio.create_task(self._serve())
        self.evaluations = 0
        self.busy = False

    async def draw(self, wish: Wish) -> ImageArray:
        """Wait for the request's batch."""
        future: asyncio.Future[ImageArray] = asyncio.get_running_loop().create_future()
        self._waiting.append((wish, future))
        self._arrived.set()
        return await future

    def close(self) -> None:
        """Stop forming batches."""
        self._owner.cancel()
        self._thread.shutdown(wait=False)

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            if len(self._waiting) < self._size:
                await asyncio.sleep(LINGER)
            batch = self._take()
            if not self._waiting:
                self._arrived.clear()
            if batch:
                self.busy = True
                await self._run([wish for wish, _ in batch], [future for _, future in batch])
                self.busy = False

    async def _run(self, wishes: list[Wish], futures: list[asyncio.Future[ImageArray]]) -> None:
        def gone() -> bool:
            return all(future.cancelled() for future in futures)

        try:
            images = await asyncio.get_running_loop().run_in_executor(self._thread, self._draw, wishes, gone)
        except Exception as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error)
            return
        self.evaluations += sum(map(self._cost, wishes))
        for future, image in zip(futures, images, strict=False):
            if not future.done():
                future.set_result(image)

    def _take(self) -> list[tuple[Wish, asyncio.Future[ImageArray]]]:
        self._waiting = [item for item in self._waiting if not item[1].cancelled()]
        if not self._waiting:
            return []
        first = self._key(self._waiting[0][0])
        batch = [item for item in self._waiting if self._key(item[0]) == first][: self._size]
        self._waiting = [item for item in self._waiting if item not in batch]
        return batch


def diffusers_draw(pipeline: Any, stage: Stage, info: ModelInfo) -> Draw:
    """One call of diffusers' pipeline per batch, with one seeded generator per picture."""

    def draw(wishes: list[Wish], gone: Callable[[], bool]) -> list[ImageArray]:
        with torch.inference_mode():
            made = pipeline(
                [wish.prompt for wish in wishes],
                num_inference_steps=stage.steps,
                guidance_scale=info.default_guidance,
                generator=[torch.Generator("cpu").manual_seed(wish.seed) for wish in wishes],
                width=info.width,
                height=info.height,
                output_type="np",
            ).images
        return list((made * 255).round().astype(np.uint8))

    return draw


def apart_draw(pipeline: Pipeline, stage: Stage, specs: Specs) -> Draw:
    """One engine loop for requests that enter at the same step: together from their first step to their last."""
    loop = StepLoop(pipeline, max_batch=stage.max_batch)

    def draw(wishes: list[Wish], gone: Callable[[], bool]) -> list[ImageArray]:
        wanted = [specs.make(wish) for wish in wishes]
        for spec in wanted:
            loop.submit(spec, time.monotonic())
        ends = run_to_the_end(loop, wanted, gone)
        return [picture_of(ends[spec.job_id], spec) for spec in wanted if spec.job_id in ends]

    return draw


def run_to_the_end(
    loop: StepLoop, wanted: Sequence[JobSpec], gone: Callable[[], bool]
) -> dict[str, JobResult | JobFailed]:
    """Tick until nothing is left; jobs whose clients have all gone are dropped."""
    ends: dict[str, JobResult | JobFailed] = {}
    while not loop.idle:
        ends.update({end.job_id: end for end in loop.tick() if isinstance(end, JobResult | JobFailed)})
        if gone():
            for spec in wanted:
                loop.cancel(spec.job_id)
    return ends


def picture_of(end: JobResult | JobFailed, spec: JobSpec) -> ImageArray:
    """Return the picture of a job that ended as it was meant to.

    Raises:
        RuntimeError: it failed, or did not enter where it should (a measurement with holes is no measurement).
    """
    if isinstance(end, JobFailed):
        raise RuntimeError(f"job {end.job_id} failed: {end.code}: {end.message}")
    if (end.resumed is None) == bool(spec.resume):
        raise RuntimeError(f"job {end.job_id} did not enter at its resume point")
    return end.image
