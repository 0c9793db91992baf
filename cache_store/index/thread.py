"""Threads beside the event loop: one owns the index, one trains."""

import asyncio
import heapq
import itertools
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

import faiss

P = ParamSpec("P")
T = TypeVar("T")

_SEARCH, _CHANGE, _COPY = range(3)
_NICE = 5


class IndexThread:
    """The one thread that may touch an index, so that the event loop never waits for it.

    Searches go before changes, and those before copying: a search waits for at most one piece of other work,
    which is why other work comes in small pieces.
    """

    def __init__(self) -> None:
        """Start no thread yet; the first call does."""
        self._waiting: list[tuple[int, int, Future[Any], Callable[[], Any]]] = []
        self._numbers = itertools.count()
        self._more = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, which changes or asks something, on the index's thread."""
        return await asyncio.wrap_future(self._submit(_CHANGE, lambda: function(*args, **kwargs)))

    async def search(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, for which somebody waits, before everything else."""
        return await asyncio.wrap_future(self._submit(_SEARCH, lambda: function(*args, **kwargs)))

    async def copy(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function`, which copies a piece, once nothing else waits."""
        return await asyncio.wrap_future(self._submit(_COPY, lambda: function(*args, **kwargs)))

    def _submit(self, urgency: int, work: Callable[[], T]) -> "Future[T]":
        future: Future[T] = Future()
        with self._more:
            if self._closed:
                raise RuntimeError("the index is closed")
            heapq.heappush(self._waiting, (urgency, next(self._numbers), future, work))
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="headstart-index", daemon=True)
                self._thread.start()
            self._more.notify()
        return future

    def _work(self) -> None:
        # OpenMP's thread count belongs to the calling thread: set here, the rest of the process keeps its own.
        faiss.omp_set_num_threads(1)
        while (job := self._next()) is not None:
            future, work = job
            if future.set_running_or_notify_cancel():
                _settle(future, work)
            # Not to keep alive what the work held until the next one comes.
            del job, future, work

    def _next(self) -> tuple["Future[Any]", Callable[[], Any]] | None:
        with self._more:
            while not self._waiting:
                if self._closed:
                    return None
                self._more.wait()
            _, _, future, work = heapq.heappop(self._waiting)
        return future, work

    def close(self) -> None:
        """End the thread once it has finished what it was given."""
        with self._more:
            self._closed = True
            self._more.notify()


def _settle(future: "Future[Any]", work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:
        future.set_exception(error)


class Workshop:
    """A thread that does long work at low priority, a piece at a time."""

    def __init__(self) -> None:
        """Start no thread yet; the first call does."""
        self._executor = ThreadPoolExecutor(1, "headstart-workshop", initializer=_modest)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on this thread."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """End the thread once it has finished the piece in hand."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _modest() -> None:
    faiss.omp_set_num_threads(1)
    if sys.platform == "linux":  # where a thread has a priority of its own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICE)
