"""The VAE decoder, on a GPU on a thread of its own: while it makes a picture, the other rows go on stepping."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from service.engine.base import ImageArray, Pipeline
from service.engine.batch import Broken, Done, Evaluator, shares
from service.engine.job import Job

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture of a job, or why there is none.

    Attributes:
        job: whose.
        image: uint8 [H, W, 3]; None when it failed.
        code: of `JobFailed`, when it failed.
        preview: whether it is a picture in progress.
        seconds: the job's share of the device time.
        joined: whether it was decoded beside another.
    """

    job: Job
    image: ImageArray | None
    code: str
    preview: bool
    seconds: float
    joined: bool = False


class _AtOnce(Executor):
    """Runs what is submitted before `submit` returns."""

    def submit(self, call: Callable[..., T], /, *arguments: Any, **named: Any) -> Future[T]:
        """Run the call; its error, if any, is the future's."""
        done: Future[T] = Future()
        try:
            done.set_result(call(*arguments, **named))
        except Exception as error:
            done.set_exception(error)
        return done


class Decoder:
    """Decodes in the order of submission; what is submitted together is decoded together.

    Belongs to the loop's thread; only the pipeline's `decode` is called on another. On CUDA it has a stream of its
    own, so its work overlaps with the denoiser's.

    Args:
        pipeline: decodes.
        max_batch: most pictures at once.
        beside: decode on a thread of its own; else at once, on the caller's. On a CPU both would share the cores, and
            a second team of OpenMP threads slows every step of the first: one picture's steps take twice as long.
    """

    def __init__(self, pipeline: Pipeline, max_batch: int, *, beside: bool) -> None:
        self._pipeline = pipeline
        self._evaluator = Evaluator(max_batch)
        self._thread: Executor = ThreadPoolExecutor(1, thread_name_prefix="decoder") if beside else _AtOnce()
        self._pending: deque[Future[list[Decoded]]] = deque()
        self._stream: torch.cuda.Stream | None = None

    @property
    def pending(self) -> bool:
        """Whether something is submitted and not collected."""
        return bool(self._pending)

    def submit(self, jobs: list[Job], latents: list[Tensor], *, preview: bool) -> None:
        """Queue pictures.

        Args:
            jobs: of one latent shape.
            latents: a clean latent [C, h, w] for each; they must not change any more.
            preview: whether they are pictures in progress.
        """
        if not self._pending:
            self._evaluator.forget()
        ready = self._mark(latents[0])
        self._pending.append(self._thread.submit(self._run, jobs, latents, preview, ready))

    def collect(self, patience: float) -> list[Decoded]:
        """Return what is done; with nothing done, wait up to `patience` seconds for the next.

        Raises:
            torch.AcceleratorError: the device itself is broken; only a new process helps.
        """
        if self._pending and patience > 0:
            wait([self._pending[0]], patience)
        done: list[Decoded] = []
        while self._pending and self._pending[0].done():
            done += self._pending.popleft().result()
        return done

    def _mark(self, latent: Tensor) -> "torch.cuda.Event | None":
        """Note on the loop's stream the point at which the latents are there."""
        if latent.device.type != "cuda":
            return None
        self._stream = self._stream or torch.cuda.Stream(latent.device)  # type: ignore[no-untyped-call]
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(latent.device))
        return event

    def _run(
        self, jobs: list[Job], latents: list[Tensor], preview: bool, ready: "torch.cuda.Event | None"
    ) -> list[Decoded]:
        wanted = [job for job in jobs if not job.gone]
        of_job = {id(job): latent for job, latent in zip(jobs, latents, strict=True)}
        done: list[Decoded] = []
        with self._own_stream(ready):
            for together in shares(wanted):
                for outcome in self._evaluator.evaluate(together, partial(self._decode, of_job)):
                    done += _decoded(outcome, preview=preview)
        return done

    @contextmanager
    def _own_stream(self, ready: "torch.cuda.Event | None") -> Iterator[None]:
        if ready is None or self._stream is None:
            yield
            return
        self._stream.wait_event(ready)
        with torch.cuda.stream(self._stream):
            yield

    def _decode(self, of_job: dict[int, Tensor], jobs: list[Job]) -> tuple[ImageArray, float]:
        started = time.perf_counter()
        # A decoder returns its pictures in the CPU's memory, so there is nothing left to wait for.
        images = self._pipeline.decode(torch.stack([of_job[id(job)] for job in jobs]))
        return images, time.perf_counter() - started


def _decoded(outcome: Done[tuple[ImageArray, float]] | Broken, *, preview: bool) -> list[Decoded]:
    if isinstance(outcome, Broken):
        return [Decoded(outcome.job, None, outcome.code, preview, 0.0)]
    images, seconds = outcome.value
    pairs = zip(outcome.jobs, images, strict=True)
    joined = len(images) > 1
    return [Decoded(job, image, "", preview, seconds / len(images), joined) for job, image in pairs]
