"""Mixed sizes and steps: `512x512:3,1024x1024` draws the first three times as often as the second."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

FROM_LOG = "log"
MAX_STEPS = 1000
_SIZE = re.compile(r"[1-9]\d{0,4}x[1-9]\d{0,4}")


@dataclass(frozen=True, slots=True)
class Mix:
    """Values to draw from.

    Attributes:
        values: empty: leave it to the service.
        weights: of each value.
        from_log: take what each row of the log says instead.
    """

    values: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    from_log: bool = False

    def draw(self, count: int, rng: np.random.Generator) -> list[str | None]:
        """Draw a value for each of `count` requests; None leaves it to the service."""
        if not self.values:
            return [None] * count
        shares = np.asarray(self.weights) / sum(self.weights)
        return [self.values[int(index)] for index in rng.choice(len(self.values), count, p=shares)]


def read_sizes(text: str) -> Mix:
    """Read `--sizes`.

    Raises:
        ValueError: naming the option and what is allowed.
    """
    return _read("--sizes", text, "WIDTHxHEIGHT", is_size)


def read_steps(text: str) -> Mix:
    """Read `--steps`.

    Raises:
        ValueError: naming the option and what is allowed.
    """
    text = "" if text.strip() == "0" else text
    return _read("--steps", text, f"1 to {MAX_STEPS}", is_steps)


def is_size(text: str) -> bool:
    """Whether this is a size."""
    return _SIZE.fullmatch(text) is not None


def is_steps(text: str) -> bool:
    """Whether this is a number of steps."""
    return text.isdecimal() and 0 < int(text) <= MAX_STEPS


def _read(option: str, text: str, form: str, sound: Callable[[str], bool]) -> Mix:
    text = text.strip()
    if text in ("", FROM_LOG):
        return Mix(from_log=text == FROM_LOG)
    values, weights = [], []
    for part in text.split(","):
        value, _, weight = part.strip().partition(":")
        number = _weight(weight or "1")
        if not sound(value) or number is None:
            raise ValueError(f"{option} takes {form}, several as VALUE:WEIGHT,… or log, not {part.strip()!r}")
        values.append(value)
        weights.append(number)
    return Mix(tuple(values), tuple(weights))


def _weight(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and number > 0 else None
