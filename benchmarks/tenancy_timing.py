"""Does the time of a lookup tell whether another tenant holds what is looked for?"""

import random
import time
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import ks_2samp, mannwhitneyu

from benchmarks.tenancy_attacks import SIGNATURE, Bench, Setting

ALPHA = 0.01


async def lookups(bench: Bench, setting: Setting, rounds: int) -> dict[str, Any]:
    """Time lookups of texts that the first tenant holds, and of texts that nobody holds, in random order.

    Two samples are told apart by Kolmogorov and Smirnov's test and by the Mann-Whitney test; the latter's statistic,
    as a share, is how often an attacker would guess right which of two lookups was of a text that is held.
    """
    holder, reader, _ = setting.tenants
    await bench.store.clear()
    texts = [source for source, _ in bench.dice.sample(list(bench.pairs), 60)]
    held = texts[:30]
    for text in held:
        await bench.draw(setting, holder, text)
    vectors = {text: await bench.embedder.embed(text) for text in texts}
    order = [text for text in texts for _ in range(rounds // len(texts) + 1)]
    random.Random(3).shuffle(order)
    signature = replace(SIGNATURE, tenant=reader)
    taken: dict[bool, list[float]] = {True: [], False: []}
    for text in order:
        started = time.perf_counter()
        await bench.store.search(signature, vectors[text], 8, lease=False, public=setting.public)
        await bench.store.find_exact(f"{reader} {text}")
        taken[text in held].append(time.perf_counter() - started)
    return _compared(np.array(taken[True]), np.array(taken[False]))


def _compared(held: np.ndarray[Any, Any], absent: np.ndarray[Any, Any]) -> dict[str, Any]:
    ranks = mannwhitneyu(held, absent)
    distance = ks_2samp(held, absent)
    share = float(ranks.statistic) / (len(held) * len(absent))
    return {
        "lookups": len(held) + len(absent),
        "held_ms": float(1000 * np.median(held)),
        "absent_ms": float(1000 * np.median(absent)),
        "guessed_right": max(share, 1 - share),
        "ks_distance": float(distance.statistic),
        "ks_p": float(distance.pvalue),
        "ranks_p": float(ranks.pvalue),
        "told_apart": bool(min(distance.pvalue, ranks.pvalue) < ALPHA / 2),
    }
