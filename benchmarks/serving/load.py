"""The load: clients in a closed loop, and what a stretch of their saturated run says."""

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np

from benchmarks.serving.wishes import Wish


@dataclass(frozen=True, slots=True)
class Answer:
    """One answered request.

    Attributes:
        latency: seconds at the client.
        finished: the server's monotonic clock when the picture was ready.
        evaluations: network evaluations of the system up to then.
    """

    latency: float
    finished: float
    evaluations: int


@dataclass(frozen=True, slots=True)
class Window:
    """The saturated part of a run: from one finished picture to another, all clients asking all the while.

    Attributes:
        seconds: how long it is.
        evaluations: network evaluations in it, one per picture and step.
        finished: pictures finished in it.
        latencies: theirs, in seconds at the client.
    """

    seconds: float
    evaluations: int
    finished: int
    latencies: tuple[float, ...]

    @classmethod
    def of(cls, answers: list[Answer], warm: int, measured: int) -> "Window":
        """Leave out the first `warm` pictures, which fill the batch, and look at the `measured` that follow."""
        ordered = sorted(answers, key=lambda answer: answer.finished)
        first, last = ordered[warm - 1], ordered[warm + measured - 1]
        inside = [answer for answer in ordered[warm:] if answer.finished <= last.finished]
        return cls(
            last.finished - first.finished,
            last.evaluations - first.evaluations,
            len(inside),
            tuple(answer.latency for answer in inside),
        )

    def pictures_per_second(self, evaluations: float) -> float:
        """Pictures' worth of work per second.

        Counted in network evaluations, because a window cuts through running pictures: plain counting is off by the
        few that are half done at either end, which does not tell systems apart.

        Args:
            evaluations: mean network evaluations of one picture of the mix.
        """
        return self.evaluations / evaluations / self.seconds

    def percentile(self, share: float) -> float:
        """Of the latencies, in seconds."""
        return float(np.percentile(self.latencies, share))


@dataclass
class ClosedLoop:
    """Clients that each ask, wait for the answer and ask again, until enough pictures are there.

    Attributes:
        url: of the server.
        path: of the system.
        wishes: what to ask for, in turn; the clients share it.
        clients: requests outstanding at any time.
        enough: pictures after which all clients leave.
        seen: called after each picture.
    """

    url: str
    path: str
    wishes: Iterator[Wish]
    clients: int
    enough: int
    seen: Callable[[], object] = lambda: None
    answers: list[Answer] = field(default_factory=list)

    async def run(self) -> list[Answer]:
        """Ask until `enough` pictures are there, have the server drop the rest, return the answers."""
        limits = httpx.Limits(max_connections=self.clients + 1)
        async with httpx.AsyncClient(base_url=self.url, timeout=None, limits=limits) as http:
            await asyncio.gather(*(self._client(http) for _ in range(self.clients)))
        return self.answers

    async def _client(self, http: httpx.AsyncClient) -> None:
        for wish in self.wishes:
            if len(self.answers) >= self.enough:
                return
            sent = time.monotonic()
            answer = await http.post(self.path, json=wish.body())
            if answer.status_code == 503 and len(self.answers) >= self.enough:
                return
            answer.raise_for_status()
            finished, evaluations = float(answer.headers["X-Finished"]), int(answer.headers["X-Evaluations"])
            self.answers.append(Answer(time.monotonic() - sent, finished, evaluations))
            self.seen()
            if len(self.answers) == self.enough:
                (await http.post("/stop")).raise_for_status()
