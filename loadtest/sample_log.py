"""Make `sample_log.jsonl`: invented users who draw scenes as people do.

    python -m loadtest.sample_log --seed 20261123 --requests 400 --minutes 20 > loadtest/sample_log.jsonl

A user comes for a session: a scene, then the same prompt again (often quickly, several times), the same scene in
other words, one thing changed (a colour, a shape, a place, …), something new, an old prompt again, or a prompt seen
in a gallery that others try too. Sessions come in waves. One user in eight pins a seed. The log is synthetic: say so
wherever it is reported. `expects` lists what a right picture shows, for a judge. New scenes are drawn from the part
that the shipped model was not trained on.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from training.pairs import nearest_wording
from training.scenes.captions import Caption, caption
from training.scenes.spec import EDIT_KINDS, edit, sample_scene

ACTIONS = {"retry": 0.27, "wording": 0.15, "edit": 0.30, "new": 0.12, "return": 0.07, "gallery": 0.09}
"""What a user does after the first prompt of a session, and how often."""

GAP_SECONDS = {"retry": 6.0, "wording": 20.0, "edit": 16.0, "new": 30.0, "return": 18.0, "gallery": 15.0}
"""Median wait before it."""

USERS = 24
GALLERY = 12
SESSION_LENGTH = 7.0
SEED_PINNERS = frozenset({5, 13, 21})


@dataclass(frozen=True)
class User:
    """An invented user."""

    name: str
    seed: int | None


class Invention:
    """All users, their gallery and the dice."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._users = [self._user(index) for index in range(USERS)]
        self._gallery = [self._new() for _ in range(GALLERY)]

    def requests(self, count: int, seconds: float) -> list[dict[str, object]]:
        """Draw sessions until there are enough requests, and order them by time."""
        drawn: list[dict[str, object]] = []
        while len(drawn) < count:
            drawn += self._session(self._arrival(seconds))
        ordered = sorted(drawn[:count], key=lambda row: float(str(row["time"])))
        first = float(str(ordered[0]["time"]))
        return [{**row, "time": round(float(str(row["time"])) - first, 2)} for row in ordered]

    def _user(self, index: int) -> User:
        seed = int(self._rng.integers(2**31))
        return User(f"u{index:02d}", seed if index in SEED_PINNERS else None)

    def _arrival(self, seconds: float) -> float:
        """Waves: half of the sessions start in one of three short rushes."""
        if self._rng.random() < 0.5:
            rush = (0.15 + 0.32 * self._rng.integers(3)) * seconds
            return float(rush + abs(self._rng.normal(0, 0.03 * seconds)))
        return float(self._rng.uniform(0, seconds))

    def _session(self, start: float) -> Iterator[dict[str, object]]:
        user = self._users[self._ranked(USERS, 3)]
        history: list[Caption] = []
        time, kind = start, "new"
        for turn in range(1 + self._rng.poisson(SESSION_LENGTH - 1)):
            if turn:
                kind = str(self._rng.choice(list(ACTIONS), p=list(ACTIONS.values())))
                time += GAP_SECONDS[kind] * float(self._rng.lognormal(0, 0.6))
            kind, said = self._act(history, kind)
            history.append(said)
            row = {"time": time, "user": user.name, "kind": kind, "prompt": said.text, "expects": _expects(said)}
            yield row if user.seed is None else {**row, "seed": user.seed}

    def _act(self, history: list[Caption], action: str) -> tuple[str, Caption]:
        if action == "gallery":
            return action, self._gallery[self._ranked(GALLERY, 1)]
        if action == "return" and len(history) > 1:
            return action, history[int(self._rng.integers(len(history) - 1))]
        if action == "new" or not history:
            return "new", self._new()
        return self._vary(history[-1], "retry" if action == "return" else action)

    def _new(self) -> Caption:
        return caption(sample_scene(self._rng, "heldout"), self._rng)

    def _ranked(self, count: int, flatness: int) -> int:
        """Zipf: the few at the front are drawn most; `flatness` evens them out."""
        weights = 1 / (flatness + np.arange(count))
        return int(self._rng.choice(count, p=weights / weights.sum()))

    def _vary(self, last: Caption, action: str) -> tuple[str, Caption]:
        if action == "wording":
            return action, caption(last.scene, self._rng)
        if action == "edit":
            kind = EDIT_KINDS[1 + int(self._rng.integers(len(EDIT_KINDS) - 1))]
            return f"edit-{kind}", nearest_wording(last, edit(last.scene, self._rng, kind), self._rng)
        return "retry", last


def _expects(said: Caption) -> dict[str, str]:
    """What a right picture must show: the attributes that the words pin down."""
    return {name: value for name, value in said.scene.attributes().items() if name in said.mentioned}


def main() -> None:
    """Write a log to standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--minutes", type=float, default=20.0)
    options = parser.parse_args()
    for row in Invention(options.seed).requests(options.requests, 60 * options.minutes):
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
