"""Whose key a request is sent with: a file of API keys, the first of them busiest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from loadtest.prompt_log import LogRow


@dataclass(frozen=True, slots=True)
class Tenant:
    """An API key, and the name that reports use in its place."""

    name: str
    key: str = field(repr=False)


def read_tenants(path: Path) -> list[Tenant]:
    """Read a file of keys: one a line, as `KEY` or `NAME KEY`; `#` starts a comment.

    Raises:
        ValueError: naming file and line, never what stands there.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"--keys {path}: cannot be read: {type(error).__name__}") from None
    tenants: list[Tenant] = []
    for number, line in enumerate(lines, start=1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        if len(words) > 2 or not words[-1].isascii() or not words[-1].isprintable():
            raise ValueError(f"--keys {path}:{number}: expected KEY, or NAME KEY")
        tenants.append(Tenant(words[0] if len(words) == 2 else f"tenant-{len(tenants) + 1}", words[-1]))
    if not tenants:
        raise ValueError(f"--keys {path}: holds no keys")
    return tenants


def draw_tenants(rows: Sequence[LogRow], count: int, skew: float, rng: np.random.Generator) -> list[int]:
    """Give each row a tenant by Zipf's law: tenant i (from 1) has the weight 1 / i^skew.

    All rows of a user go to one tenant: what a user repeats must find what that user drew before.
    """
    weights = 1.0 / np.arange(1, count + 1) ** skew
    shares = weights / weights.sum()
    users = sorted({row.user for row in rows if row.user is not None})
    homes = dict(zip(users, rng.choice(count, len(users), p=shares).tolist(), strict=True))
    alone = rng.choice(count, len(rows), p=shares).tolist()
    return [alone[index] if row.user is None else homes[row.user] for index, row in enumerate(rows)]
