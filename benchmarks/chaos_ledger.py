"""What a chaos run has seen: how every request ended, what became of every accepted job, and what was wrong."""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos_faults import Weather
from benchmarks.soak_client import Drawn, Outcome

SAMPLE = 400
TOO_LATE = ("deadline_exceeded", "overloaded")
"""Of a job that its deadline leaves no time: given up, or, once its turn is foreseen, refused."""
FULL_RUNS = ("MISS", "BYPASS", "REFRESH", "EXACT")


@dataclass
class JobNote:
    """An accepted job.

    Attributes:
        then: what its client does, see `Errand.then`.
        pictures: how many were asked for.
        wish: the request.
        deadline: whether it may be too late.
        end: its final status, "deleted", or "" while nothing is known.
        code: of its error.
        version: of its state as last seen.
    """

    then: str
    pictures: int
    wish: dict[str, Any]
    deadline: bool
    end: str = ""
    code: str = ""
    version: int = 0

    def wrong_end(self) -> str | None:
        """Return what is wrong with the way it ended, None if nothing is."""
        match self.end:
            case "succeeded":
                return None
            case "deleted" if self.then == "delete":
                return None
            case "cancelled" if self.then in ("cancel", "delete"):
                return None
            case "failed" if self.code == "engine_lost" or (self.deadline and self.code in TOO_LATE):
                return None
        return f"the job ended as {self.end or 'nothing known'} {self.code}".rstrip()


@dataclass(frozen=True, slots=True)
class Made:
    """A picture that was answered, and the request it answers."""

    wish: dict[str, Any]
    drawn: Drawn


@dataclass
class ChaosLedger:
    """Everything the clients of one run saw.

    Attributes:
        weather: when faults were under way.
        ends: requests by kind and end.
        statuses: answers by status, those of followed jobs included.
        wrong: what must not be, each with the request it happened to.
        jobs: accepted jobs by id.
        verdicts: pictures by what the cache did.
        stored: bodies that were answered as the first under a key, by key.
        replayed: bodies that were answered as repeats, by key.
        gone: pictures of finished jobs that could not be fetched.
        full: a sample of pictures that no state of another run went into.
        resumed: a sample of the others.
    """

    weather: Weather
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[dict[str, Any]] = field(default_factory=list)
    jobs: dict[str, JobNote] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)
    stored: dict[str, set[bytes]] = field(default_factory=dict)
    replayed: dict[str, list[bytes]] = field(default_factory=dict)
    gone: int = 0
    full: list[Made] = field(default_factory=list)
    resumed: list[Made] = field(default_factory=list)
    _dice: random.Random = field(default_factory=lambda: random.Random(1))
    _seen: Counter[str] = field(default_factory=Counter)

    def ended(self, kind: str, end: str) -> None:
        """Count a request."""
        self.ends[kind, end] += 1

    def fault(self, kind: str, what: str) -> None:
        """Note what must not be."""
        self.wrong.append({"kind": kind, "what": what})

    def outcome(self, outcome: Outcome, begun: float, ended: float) -> None:
        """Note how an exchange of the soak's client ended."""
        kind = outcome.shot.kind
        self.ended(kind, outcome.end)
        if outcome.status:
            self.statuses[str(outcome.status)] += 1
        if outcome.end in ("hung", "broken", "wrong"):
            self.fault(kind, f"{outcome.end} {outcome.status} {outcome.code} after {ended - begun:.1f} s")
        if outcome.status == 503:
            self.unavailable(kind, outcome.code, begun, ended)
        for drawn in outcome.drawn:
            self.made(outcome.shot.wish, drawn)

    def unavailable(self, kind: str, code: str, begun: float, ended: float) -> None:
        """Note a 503: right only as long as the cache is away."""
        if code != "cache_unavailable" or not self.weather.excuses(begun, ended):
            self.fault(kind, f"503 {code} without a fault")

    def made(self, wish: dict[str, Any], drawn: Drawn) -> None:
        """Count a picture, and keep it if it falls into the sample (a reservoir)."""
        self.verdicts[drawn.verdict] += 1
        name = "full" if drawn.verdict in FULL_RUNS else "resumed"
        kept: list[Made] = self.full if name == "full" else self.resumed
        self._seen[name] += 1
        if len(kept) < SAMPLE:
            kept.append(Made(wish, drawn))
        elif (place := self._dice.randrange(self._seen[name])) < SAMPLE:
            kept[place] = Made(wish, drawn)

    def keyed(self, key: str, status: str, body: bytes) -> None:
        """Note an answer to an idempotent request."""
        if status == "stored":
            self.stored.setdefault(key, set()).add(body)
        elif status == "replayed":
            self.replayed.setdefault(key, []).append(body)

    def judge(self) -> None:
        """Note what only the whole run shows: jobs that ended wrongly, repeats that repeat nothing."""
        for note in self.jobs.values():
            if (wrong := note.wrong_end()) is not None:
                self.fault(f"job, {note.then}", wrong)
        for key, bodies in self.replayed.items():
            strange = sum(body not in self.stored.get(key, set()) for body in bodies)
            if strange:
                self.fault("keyed", f"{strange} repeats under one key show another answer than was stored")
