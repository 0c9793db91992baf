"""What a soak sends: a seeded mix of good, odd, impatient and wrong requests; a number always gives the same one."""

import json
import random
from dataclasses import dataclass, field, replace
from typing import Any

IMAGES = "/v1/images/generations"
EVENTS = "/v1/generations/events"
JSON = {"Content-Type": "application/json"}

COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("ball", "star", "heart", "ring", "flower", "box")
PLACES = ("on a meadow", "on the sea", "in the desert", "at night")
FORMS = ("a {} {} {}", "a small {} {} {}", "one {} {} {}, please")
PROMPTS = tuple(f.format(c, s, p) for p in PLACES for s in SHAPES for c in COLOURS for f in FORMS)
# Stands in every wrong request; no log and no metric may repeat it.
MARK = "zebra-crossing"

SIZES = (128, 96)
STEPS = (2, 3, 4, 8)
STEP_WEIGHTS = (32, 30, 30, 8)
FAVOURITES = 48
KINDS = {"plain": 42, "stream": 10, "watch": 8, "directive": 14, "cancelled": 12, "bad": 11, "look": 3}
HUGE_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Shot:
    """One HTTP request of the soak and what may come of it.

    Attributes:
        kind: one of `KINDS`, or "probe" or "repeat".
        path: where it goes.
        body: what is sent; empty for none.
        method: the HTTP method.
        headers: what is sent beside the body.
        accepts: the only statuses that are right.
        pictures: how many a 200 holds.
        size: their width and height.
        streamed: a 200 is a stream of events.
        hang_up: seconds after which the client goes away; None stays.
        chunked: the body is sent without its length.
    """

    kind: str
    path: str
    body: bytes = b""
    method: str = "POST"
    headers: dict[str, str] = field(default_factory=dict)
    accepts: tuple[int, ...] = (200,)
    pictures: int = 0
    size: tuple[int, int] = (0, 0)
    streamed: bool = False
    hang_up: float | None = None
    chunked: bool = False

    @property
    def wish(self) -> dict[str, Any]:
        """The body as it was before it was encoded."""
        return dict(json.loads(self.body))


@dataclass(frozen=True)
class Mix:
    """Draws the requests of one soak.

    Args:
        seed: of all that is random here.
        solvers: the served model's.
    """

    seed: int
    solvers: tuple[str, ...]

    def shot(self, number: int) -> Shot:
        """Return request `number`; independent of every other."""
        rng = random.Random(f"{self.seed}:{number}")
        kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
        match kind:
            case "bad":
                return rng.choice(BAD)
            case "look":
                return Shot(kind, rng.choice(LOOKS), method="GET", accepts=(200, 503))
            case "cancelled":
                return self._cancelled(rng)
            case "directive":
                return self._directive(rng)
            case "stream" | "watch":
                return _streamed(kind, self._wish(rng), rng)
            case _:
                return _plain(kind, self._wish(rng) | {"n": rng.choice((1, 1, 1, 2))})

    def _wish(self, rng: random.Random) -> dict[str, Any]:
        """A favourite, which others ask for too, or something of its own."""
        if rng.random() < 0.3:
            rng = random.Random(f"{self.seed}:favourite:{rng.randrange(FAVOURITES)}")
        size = rng.choice(SIZES)
        wish: dict[str, Any] = {
            "prompt": PROMPTS[min(int(rng.paretovariate(0.6)), len(PROMPTS)) - 1],
            "num_inference_steps": rng.choices(STEPS, STEP_WEIGHTS)[0],
            "scheduler": rng.choice(self.solvers),
            "size": f"{size}x{size}",
            "guidance_scale": rng.choice((1.0, 4.0)),
        }
        if rng.random() < 0.6:
            wish["seed"] = rng.randrange(6)
        if rng.random() < 0.1:
            wish["output_format"] = rng.choice(("jpeg", "webp"))
        return wish

    def _directive(self, rng: random.Random) -> Shot:
        shot = _plain("directive", self._wish(rng) | {"cache": rng.choice(CACHES)})
        header = rng.choice(CONTROLS)
        accepts = (200, 504) if "only-if-cached" in header else (200,)
        return replace(shot, headers=JSON | {"Cache-Control": header}, accepts=accepts)

    def _cancelled(self, rng: random.Random) -> Shot:
        kind = rng.choice(("plain", "stream", "watch"))
        wish = self._wish(rng)
        shot = _plain("plain", wish | {"n": rng.choice((1, 2))}) if kind == "plain" else _streamed(kind, wish, rng)
        at_once = rng.random() < 0.3
        return replace(shot, kind="cancelled", hang_up=rng.uniform(0.0, 0.05) if at_once else rng.uniform(0.05, 2.0))


CACHES: tuple[dict[str, Any], ...] = (
    {"mode": "off"},
    {"mode": "exact"},
    {"mode": "approximate"},
    {"mode": "approximate", "min_similarity": 0.95},
    {"mode": "approximate", "max_skip_ratio": 0.3},
    {"store": False},
)
CONTROLS = ("", "", "", "no-cache", "no-store", "max-age=0", "only-if-cached")
LOOKS = ("/metrics", "/v1/stats", "/v1/models", "/v1/cache/entries", "/livez")


def _plain(kind: str, wish: dict[str, Any]) -> Shot:
    side = int(wish["size"].split("x")[0])
    body = json.dumps(wish).encode()
    return Shot(kind, IMAGES, body, headers=JSON, pictures=wish.get("n", 1), size=(side, side))


def _streamed(kind: str, wish: dict[str, Any], rng: random.Random) -> Shot:
    asked = {"stream": True} if kind == "stream" else {}
    shot = _plain(kind, wish | asked | {"partial_images": rng.randrange(4)})
    return replace(shot, path=IMAGES if kind == "stream" else EVENTS, streamed=True)


def probe(seed: int) -> Shot:
    """The request whose picture must never change: it neither reads nor writes the cache."""
    wish = {"prompt": PROMPTS[0], "num_inference_steps": 4, "seed": seed, "size": f"{SIZES[0]}x{SIZES[0]}"}
    return _plain("probe", wish | {"cache": {"mode": "off"}})


def repeat_of(shot: Shot, seed: int) -> Shot:
    """The same full run once more, past the cache."""
    return _plain("repeat", shot.wish | {"seed": seed, "n": 1, "cache": {"mode": "off"}})


def _wrong(status: int, body: bytes | dict[str, Any], **changes: Any) -> Shot:
    data = body if isinstance(body, bytes) else json.dumps({"prompt": MARK} | body).encode()
    return replace(Shot("bad", IMAGES, data, headers=JSON, accepts=(status,)), **changes)


BAD = (
    _wrong(400, b""),
    _wrong(400, b"{"),
    _wrong(400, b"[]"),
    _wrong(400, b"[" * 50_000),
    _wrong(400, b'{"prompt": "\xff\xfe"}'),
    _wrong(400, b'{"prompt": "\\ud800"}'),
    _wrong(400, f'{{"prompt": "{MARK}", "guidance_scale": NaN}}'.encode()),
    _wrong(400, f'{{"prompt": "{MARK}", "seed": {"9" * 5000}}}'.encode()),
    _wrong(400, {"prompt": 5}),
    _wrong(400, {"prompt": " \n"}),
    _wrong(400, {"prompt": MARK * 1000}),
    _wrong(400, {"n": 0}),
    _wrong(400, {"n": "2"}),
    _wrong(400, {"size": "97x97"}),
    _wrong(400, {"size": "99999x99999"}),
    _wrong(400, {"seed": -1}),
    _wrong(400, {"num_inference_steps": 201}),
    _wrong(400, {"scheduler": "magic"}),
    _wrong(400, {"cache": {"mode": "sometimes"}}),
    _wrong(400, {"cache": {"tenant": "other"}}),
    _wrong(400, {"steps": 8, "lora": MARK}),
    _wrong(400, {"stream": True, "n": 2}),
    _wrong(400, {"partial_images": 2}),
    _wrong(404, {"model": "dall-e-3"}),
    _wrong(400, {"n": 2}, path=EVENTS),
    _wrong(400, {}, headers={"Content-Type": "text/plain"}),
    _wrong(400, {}, headers={"Content-Type": "application/x-www-form-urlencoded"}),
    _wrong(413, {"prompt": "x" * HUGE_BYTES}),
    _wrong(413, {"prompt": "x" * HUGE_BYTES}, chunked=True),
    _wrong(405, b"", method="GET"),
    _wrong(405, {}, method="DELETE"),
    _wrong(405, {}, path="/v1/models"),
    _wrong(404, {}, path=f"/v1/{MARK}"),
    _wrong(404, b"", method="GET", path="/v1/cache/entries/9999999999999999999/image"),
    _wrong(400, b"", method="GET", path="/v1/cache/entries/abc"),
    _wrong(400, b"", method="GET", path="/v1/cache/entries?limit=0"),
)
