"""What to forget: saved compute per eviction policy and cache size, on a real log and on a joined workload.

Everything is replayed by `loadtest.simulator`: no model runs, so the divergence gate is not simulated. The first 40 %
of each workload only warm the cache (and are all that anything was tuned or fitted on); figures are of the rest.
"All states" are what Nirvana's rules store of the whole workload without bound, per table. Intervals (95 %):
DiffusionDB, one order of events, bootstrap over blocks of requests; the joined workload, over joins of other seeds.

`parsimonious` learns its reuse predictor as it goes, so on the first 40 % before anything is counted. Its table of
noise is a replay of the log's pages (requests that one earlier generation would answer are one page).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.workloads import SAMPLE_LOG, chains_of, data_folder, diffusiondb, embedded, joined, midjourney
from loadtest.prompt_log import read_prompt_log
from loadtest.simulator.matching import PAPER, Matching, load_matching
from loadtest.simulator.neighbours import Neighbours, find_neighbours
from loadtest.simulator.pages import pages_of
from loadtest.simulator.replay import Ground, Replay
from loadtest.simulator.setup import headstart, modm, nirvana
from loadtest.simulator.study import BLOCK, Maker, Size, ceiling, compare, make_ground, named, oracle, unbounded
from loadtest.simulator.synthetic import synthetic_workload
from loadtest.simulator.workload import Workload
from policies.eviction import POLICIES
from policies.eviction.parsimonious.evaluation import noise_table

SHARES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
TUNED_ON = 0.4
STRANGERS = 2000
SHIPPED_TABLE = Path("models/scenes-unet/matching.json")
NIRVANA = "nirvana: lcbfu"
MODM = "modm: fifo"
ORACLE = "oracle"

Saved = dict[str, list[list[float]]]
"""By policy: for each cache size the saved share of each repetition (or, for a single log, of each block)."""


@dataclass(frozen=True)
class Effort:
    """How much to replay."""

    log: int | None
    joins: int
    joined: int
    strangers: int


FULL = Effort(log=None, joins=5, joined=8000, strangers=STRANGERS)
QUICK = Effort(log=1000, joins=2, joined=1500, strangers=150)


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Compare all policies on all workloads and tables."""
    effort = QUICK if quick else FULL
    tables = (PAPER, load_matching(SHIPPED_TABLE))
    groups = workloads(effort, quiet=quiet)
    near = {id(one): find_neighbours(one, floor=PAPER.floor) for group in groups.values() for one in group}
    cases = [case(name, table, group, near) for name, group in groups.items() for table in tables]
    first = next(iter(groups.values()))[0]
    return {
        "headline": headline(cases),
        "cases": cases,
        "noise": noise(first, near[id(first)]),
        "shares": list(SHARES),
        "tuned_on": TUNED_ON,
        "data": "public logs" if data_folder() else "no HEADSTART_DATA: the sample log and an invented workload",
        "gate": "not simulated",
    }


def workloads(effort: Effort, *, quiet: bool) -> dict[str, list[Workload]]:
    """The workloads by name; several of one kind are repetitions."""
    folder = data_folder()
    if folder is None:
        sample = embedded("sample log", read_prompt_log(SAMPLE_LOG), quiet=quiet)
        made = [synthetic_workload(effort.joined, seed) for seed in range(effort.joins)]
        return {"sample log (invented)": [sample], "generator (invented)": made}
    log = embedded("DiffusionDB", diffusiondb(folder, effort.log), quiet=quiet)
    chains, strangers = chains_of(log), midjourney(folder)[: effort.strangers]
    joins = [
        embedded(f"join {seed}", joined(folder, chains, strangers, seed, effort.joined), quiet=quiet)
        for seed in range(effort.joins)
    ]
    return {"DiffusionDB in order": [log], "joined (synthetic)": joins}


def case(name: str, table: Matching, group: Sequence[Workload], near: dict[int, Neighbours]) -> dict[str, Any]:
    """All policies at all sizes on one kind of workload under one table."""
    single = len(group) == 1
    per_run = [one_run(workload, near[id(workload)], table) for workload in group]
    labels = list(per_run[0]["saved"])
    # [size][repetition or block]; blocks of a single log are its repetitions.
    saved: Saved = {
        label: [
            blocks(per_run[0]["saved"][label][size])
            if single
            else [float(r["saved"][label][size].mean()) for r in per_run]
            for size in range(len(SHARES))
        ]
        for label in labels
    }
    return {
        "workload": name,
        "table": table.name,
        "requests": [len(one) for one in group],
        "distinct_texts": [len(one.vectors) for one in group],
        "interval_over": f"blocks of {BLOCK} requests" if single else f"{len(group)} joins",
        "all_states": [run["all_states"] for run in per_run],
        "unbounded": float(np.mean([run["unbounded"] for run in per_run])),
        "ceiling": float(np.mean([run["ceiling"] for run in per_run])),
        "policies": {label: figures(saved, label, per_run) for label in labels},
    }


def repeats(per_run: list[dict[str, Any]], label: str, size: int) -> list[float]:
    """The saved share of each repetition; of a single log its blocks are the repetitions."""
    arrays = [one["saved"][label][size] for one in per_run]
    return blocks(arrays[0]) if len(arrays) == 1 else [float(one.mean()) for one in arrays]


def blocks(saved: "np.ndarray[Any, Any]") -> list[float]:
    """Means of consecutive requests."""
    count = max(1, len(saved) // BLOCK)
    return [float(part.mean()) for part in np.array_split(saved, count)]


def one_run(workload: Workload, near: Neighbours, table: Matching) -> dict[str, Any]:
    """Replay everything on one workload."""
    since = int(TUNED_ON * len(workload))
    ours, theirs, pictures = (make_ground(workload, near, rules(table)) for rules in (headstart, nirvana, modm))
    free = unbounded(ours)
    all_states = unbounded(theirs).final_bytes
    sizes = [Size(max(1, int(share * all_states)), share) for share in SHARES]
    runs = replays(ours, {name: named(name) for name in sorted(POLICIES)}, sizes, since, free)
    runs |= replays(ours, {ORACLE: oracle(ours, free)}, sizes, since, free)
    runs[NIRVANA] = replays(theirs, {"lcbfu": named("lcbfu")}, sizes, since, None)["lcbfu"]
    runs[MODM] = replays(pictures, {"fifo": named("fifo")}, sizes, since, None)["fifo"]
    return {
        "saved": {label: [one[since:] for one in at] for label, at in runs.items()},
        "all_states": all_states,
        "unbounded": float(free.saved[since:].mean()),
        "ceiling": float(ceiling(ours)[since:].mean()),
    }


def replays(
    ground: Ground, makers: dict[str, Maker], sizes: Sequence[Size], since: int, free: Replay | None
) -> dict[str, list[Any]]:
    """The saved share of each request, by policy and size."""
    found: dict[str, list[Any]] = {name: [] for name in makers}
    for row, done in compare(ground, makers, sizes, since=since, free=free):
        found[row.policy].append(done.saved)
    return found


def figures(saved: Saved, label: str, per_run: list[dict[str, Any]]) -> dict[str, Any]:
    """One policy's figures: at each size, and pooled over the sizes against the baselines."""
    pooled = {name: np.mean(rows, axis=0) for name, rows in saved.items()}
    return {
        "saved": [mean_interval(row) for row in saved[label]],
        "pooled": mean_interval(pooled[label]),
        "over_nirvana": ratio_interval(pooled[label], pooled[NIRVANA]),
        "over_lcbfu_same_rules": ratio_interval(pooled[label], pooled["lcbfu"]),
        "over_oracle": ratio_interval(pooled[label], pooled[ORACLE]),
    }


def noise(workload: Workload, near: Neighbours) -> dict[str, Any]:
    """Faults and queries of F&R by how wrong its predictor is, on the log's pages; one in a hundred fits."""
    pages = pages_of(workload, near, PAPER.floor).tolist()
    k = max(4, len(set(pages)) // 100)
    rows = noise_table(pages, k)
    return {"log": workload.name, "requests": len(pages), "pages": len(set(pages)), "k": k,
            "rows": [asdict(row) for row in rows]}  # fmt: skip


def headline(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """The policy that saves most, pooled with equal weight over workloads, tables and sizes, and its ratios."""
    pooled = {
        label: float(np.mean([one["policies"][label]["pooled"]["value"] for one in cases]))
        for label in cases[0]["policies"]
    }
    best = max(POLICIES, key=lambda name: pooled[name])
    return {
        "best_policy": best,
        "best_over_lcbfu": pooled[best] / pooled[NIRVANA],
        "best_over_lcbfu_same_rules": pooled[best] / pooled["lcbfu"],
        "best_over_oracle": pooled[best] / pooled[ORACLE],
        "saved_compute": pooled[best],
    }
