"""What clients of a crashing service send, and what they must be able to rely on whatever has been killed."""

import asyncio
import base64
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from benchmarks.crash_mend import until
from benchmarks.soak_client import difference
from benchmarks.soak_mix import COLOURS, IMAGES, PLACES, SHAPES

# As many as the default table was profiled at: fewer steps have no state it would resume.
STEPS = 8
SIZE = "64x64"
CLIENTS = 6
LIMIT_SECONDS = 300.0
# Until a client tries again; by then whoever killed the service has noted its death.
RETRY_SECONDS = 1.0
KINDS = {"retry": 35, "reword": 25, "repeat": 25, "new": 15}
FORMS = ("a {} {} {}", "one {} {} {}", "a small {} {} {}", "a big {} {} {}")
ACCEPTED_LEVELS = 16
"""Of 255: two full runs of one request may differ by this much when they were drawn in different batches."""


@dataclass(frozen=True, slots=True)
class Wish:
    """A request: seed None lets the service choose."""

    kind: str
    prompt: str
    seed: int | None

    @property
    def body(self) -> dict[str, Any]:
        """As it is sent."""
        seed = {} if self.seed is None else {"seed": self.seed}
        return {"prompt": self.prompt, "num_inference_steps": STEPS, "size": SIZE} | seed


def wish(seed: int, number: int) -> Wish:
    """Return request `number`; the prompts in fashion move on slowly, so that states are evicted and come back."""
    rng = random.Random(f"{seed}:{number}")
    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    topic = number // 40 + int(rng.paretovariate(1.2)) if kind != "new" else 10_000 + number
    prompt = _prompt(topic, rng.choice(FORMS) if kind == "reword" else FORMS[0])
    return Wish(kind, prompt, topic % 3 if kind == "repeat" else None)


def _prompt(topic: int, form: str) -> str:
    colour, shape = COLOURS[topic % len(COLOURS)], SHAPES[topic // len(COLOURS) % len(SHAPES)]
    place = PLACES[topic // (len(COLOURS) * len(SHAPES)) % len(PLACES)]
    # Beyond the combinations a number keeps new prompts new.
    return form.format(colour, shape, place) + (f" {topic}" if topic >= 10_000 else "")


@dataclass
class Ledger:
    """What the clients have seen, and what is wrong with it.

    Attributes:
        dead: spans of time (monotonic) in which the service was dead, and refusing a connection is right.
        verdicts: answers by verdict.
        wrong: answers that show a wrong state or picture, each with what is wrong.
        failed: requests that were not answered though the service lived.
        lost: requests that the death of the service itself took along.
        unseen: exact hits of pictures whose first answer died with the service.
    """

    dead: list[tuple[float, float]] = field(default_factory=list)
    verdicts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    lost: int = 0
    unseen: int = 0
    _sent: set[str] = field(default_factory=set)
    _names: dict[str, str] = field(default_factory=dict)
    _pictures: dict[tuple[str, int], list[bytes]] = field(default_factory=dict)

    def sending(self, one: Wish) -> None:
        """Note a request on its way."""
        self._sent.add(one.prompt)

    def failure(self, started: float, ended: float, what: str) -> None:
        """Note a request that got no picture."""
        # Whoever was connected when the service died is told so a moment later, or cannot connect until it is back.
        if what.startswith("connection") and any(begin <= ended and started <= end for begin, end in self.dead):
            self.lost += 1
        else:
            self.failed.append(what)

    def answer(self, one: Wish, item: dict[str, Any]) -> None:
        """Check one answer against everything known."""
        cache, data = item["cache"], base64.b64decode(item["b64_json"])
        verdict = cache["verdict"]
        self.verdicts[verdict] += 1
        if cache["source"] is not None:
            self._check_source(one, cache["source"], verdict)
        key = (one.prompt, int(item["seed"]))
        if verdict == "EXACT":
            self._check_exact(key, data)
        elif verdict == "MISS":
            self._keep(key, data)

    def _check_source(self, one: Wish, source: dict[str, Any], verdict: str) -> None:
        name = source["prompt"]
        if name not in self._sent:
            self.wrong.append("the source's prompt was never sent")
        if self._names.setdefault(source["id"], name) != name:
            self.wrong.append(f"entry {source['id']} has changed its meaning")
        if verdict == "EXACT" and name != one.prompt:
            self.wrong.append("an exact hit of another prompt")

    def _check_exact(self, key: tuple[str, int], data: bytes) -> None:
        known = self._pictures.get(key)
        if known is None:
            self.unseen += 1
        elif data not in known and min(difference(data, one) for one in known) > ACCEPTED_LEVELS:
            self.wrong.append("an exact hit shows another picture than was first returned")
        self._keep(key, data)

    def _keep(self, key: tuple[str, int], data: bytes) -> None:
        known = self._pictures.setdefault(key, [])
        if data not in known:
            known.append(data)

    def entry(self, entry: dict[str, Any]) -> None:
        """Check an entry as the catalogue shows it."""
        if self._names.setdefault(entry["id"], entry["prompt"]) != entry["prompt"]:
            self.wrong.append(f"entry {entry['id']} has changed its meaning")


class Clients:
    """Sends requests from several clients until told to stop.

    Args:
        url: of the service.
        ledger: hears of every answer.
        seed: of the mix.
    """

    def __init__(self, url: str, ledger: Ledger, seed: int) -> None:
        self._http = httpx.AsyncClient(base_url=url, timeout=LIMIT_SECONDS)
        self._ledger = ledger
        self._seed = seed
        self._numbers = itertools.count()
        self._go = asyncio.Event()
        self._inside = 0
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def http(self) -> httpx.AsyncClient:
        """For questions beside the load."""
        return self._http

    def start(self) -> None:
        """Begin to send."""
        self._go.set()
        self._tasks = [asyncio.create_task(self._client()) for _ in range(CLIENTS)]

    async def pause(self) -> None:
        """Send nothing more, and wait until everything sent is answered."""
        self._go.clear()
        while self._inside:
            self._raise_broken()
            await asyncio.sleep(0.02)

    def resume(self) -> None:
        """Send again."""
        self._go.set()

    async def close(self) -> None:
        """Stop for good."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._http.aclose()

    def _raise_broken(self) -> None:
        for task in self._tasks:
            if task.done():
                task.result()

    async def _client(self) -> None:
        while True:
            await self._go.wait()
            self._inside += 1
            try:
                one = wish(self._seed, next(self._numbers))
                await until(lambda: self._send(one))  # noqa: B023
            finally:
                self._inside -= 1

    async def _send(self, one: Wish) -> bool:
        """Send a request; False = nobody was there, and it is to be sent again."""
        self._ledger.sending(one)
        started = time.monotonic()
        try:
            answer = await self._http.post(IMAGES, json=one.body)
        except httpx.TransportError as error:
            ended = time.monotonic()
            await asyncio.sleep(RETRY_SECONDS)
            self._ledger.failure(started, ended, f"connection: {type(error).__name__}")
            return False
        if answer.status_code == httpx.codes.OK:
            self._ledger.answer(one, answer.json()["data"][0])
        else:
            self._ledger.failure(started, time.monotonic(), f"status {answer.status_code}: {answer.text[:200]}")
        return True
