"""What clients of a chaos run send: good, repeated, impatient, half-sent and wrong requests, seeded by number."""

import json
import random
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.soak_mix import BAD, EVENTS, IMAGES, JSON, LOOKS, PROMPTS, Shot

KINDS = {"sync": 24, "keyed": 11, "job": 23, "prefer": 8, "stream": 10, "gone": 10, "half": 5, "bad": 7, "look": 2}
SIDE = 32
STEPS = (2, 4, 8)
JOBS = "/v1/jobs"
# So many requests in a row share so many keys.
KEY_SPAN, KEYS = 80, 4
SHORT_DEADLINE = 0.3
THEN = {"poll": 6, "events": 5, "cancel": 3, "delete": 2}


@dataclass(frozen=True, slots=True)
class Errand:
    """One request of a chaos run, and what its client does besides.

    Attributes:
        shot: the request.
        then: how a job is followed: "poll", "events" (and hangs up at the pause), "cancel" or "delete"; "" for none.
        pause: seconds before that.
        raw: bytes that are sent in place of the request, before the connection is cut.
        key: of an idempotent request.
        deadline: whether it may be too late.
    """

    shot: Shot
    then: str = ""
    pause: float = 0.0
    raw: bytes = b""
    key: str = ""
    deadline: bool = False


@dataclass(frozen=True)
class ChaosMix:
    """Draws the errands of one run.

    Args:
        seed: of all that is random here.
        solvers: the served model's.
    """

    seed: int
    solvers: tuple[str, ...]

    def errand(self, number: int) -> Errand:
        """Return errand `number`; independent of every other."""
        rng = random.Random(f"{self.seed}:{number}")
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        match kind:
            case "bad":
                return Errand(rng.choice(BAD))
            case "look":
                return Errand(Shot(kind, rng.choice(LOOKS), method="GET", accepts=(200, 503)))
            case "keyed":
                return self._keyed(rng, number)
            case "job" | "prefer":
                return _job(kind, self._wish(rng), rng)
            case "stream":
                return Errand(_streamed(kind, self._wish(rng), rng))
            case "gone":
                return self._gone(rng)
            case "half":
                return _half(self._wish(rng), rng)
            case _:
                return _hurried(_plain(kind, self._wish(rng) | {"n": rng.choice((1, 1, 1, 2))}), rng)

    def _wish(self, rng: random.Random) -> dict[str, Any]:
        """Something that others may ask for, too."""
        wish: dict[str, Any] = {
            "prompt": PROMPTS[min(int(rng.paretovariate(0.6)), len(PROMPTS)) - 1],
            "num_inference_steps": rng.choice(STEPS),
            "scheduler": rng.choice(self.solvers),
            "size": f"{SIDE}x{SIDE}",
            "guidance_scale": rng.choice((1.0, 3.0)),
        }
        if rng.random() < 0.6:
            wish["seed"] = rng.randrange(6)
        return wish

    def _keyed(self, rng: random.Random, number: int) -> Errand:
        """A request that is sent several times under one key, sometimes as a job; now and then a key is misused."""
        key = f"{self.seed}-{number // KEY_SPAN}-{rng.randrange(KEYS)}"
        shared = random.Random(key)
        wish, as_job = self._wish(shared), shared.random() < 0.4
        if rng.random() < 0.1:
            wish["num_inference_steps"] = 3
        shot = _plain("keyed", wish)
        shot = replace(shot, headers=JSON | {"Idempotency-Key": key}, accepts=(200, 409, 422))
        if not as_job:
            return Errand(shot, key=key)
        return Errand(replace(shot, path=JOBS, accepts=(202, 409, 422)), then="poll", key=key)

    def _gone(self, rng: random.Random) -> Errand:
        wish = self._wish(rng)
        shot = _streamed("gone", wish, rng) if rng.random() < 0.5 else _plain("gone", wish)
        at_once = rng.random() < 0.3
        return Errand(replace(shot, hang_up=rng.uniform(0.0, 0.05) if at_once else rng.uniform(0.05, 1.0)))


def _plain(kind: str, wish: dict[str, Any]) -> Shot:
    body = json.dumps(wish).encode()
    return Shot(kind, IMAGES, body, headers=JSON, pictures=wish.get("n", 1), size=(SIDE, SIDE))


def _streamed(kind: str, wish: dict[str, Any], rng: random.Random) -> Shot:
    openai = rng.random() < 0.5
    asked = {"stream": True} if openai else {}
    shot = _plain(kind, wish | asked | {"partial_images": rng.randrange(4)})
    return replace(shot, path=IMAGES if openai else EVENTS, streamed=True)


def _hurried(shot: Shot, rng: random.Random) -> Errand:
    """Give a few requests a deadline that they may miss."""
    if rng.random() >= 0.05:
        return Errand(shot)
    body = json.dumps(shot.wish | {"deadline_seconds": SHORT_DEADLINE}).encode()
    return Errand(replace(shot, body=body, accepts=(*shot.accepts, 504)), deadline=True)


def _job(kind: str, wish: dict[str, Any], rng: random.Random) -> Errand:
    wish["n"] = rng.choice((1, 1, 1, 2))
    if kind == "job":
        wish |= {"partial_images": rng.randrange(3), "response_format": rng.choice(("b64_json", "url"))}
    headers = JSON | ({"Prefer": "respond-async"} if kind == "prefer" else {})
    shot = replace(_plain(kind, wish), path=JOBS if kind == "job" else IMAGES, headers=headers, accepts=(202,))
    errand = _hurried(shot, rng)
    errand = replace(errand, shot=replace(errand.shot, accepts=(202,)))
    return replace(errand, then=rng.choices(list(THEN), list(THEN.values()))[0], pause=rng.uniform(0.0, 0.6))


def _half(wish: dict[str, Any], rng: random.Random) -> Errand:
    """A request of which only a part is sent, and things that are no requests."""
    body = json.dumps(wish).encode()
    path = rng.choice((IMAGES, EVENTS, JOBS))
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    whole = head.encode() + body
    raw = rng.choice((whole[: rng.randrange(1, len(whole))], *NOT_HTTP))
    return Errand(Shot("half", path), raw=raw, pause=rng.uniform(0.0, 0.3))


NOT_HTTP = (
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"\x00" * 100,
    b"POST /v1/jobs HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /v1/jobs HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"GET /%ff%fe HTTP/1.1\r\nConnection: close\r\n\r\n",
)
