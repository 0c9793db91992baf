"""What does everything around denoising cost, and how much of the saving by step count is realised?

Against a live service whose matching admits K = 25 for a repeated prompt (the paper's table; the shipped one may
stop earlier), otherwise with default settings: full runs of N = 50 and approximate hits that enter at K = 25,
alternating, so that drift of the machine falls on both alike. Floor: a hit at K of N cannot take less than
(N - K)/N of the denoising time of a full run, i.e. the ideal saving is K/N of the full run's wall time.
"""

import re
import statistics
import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.live import live_service

STEPS, SKIP = 50, 25
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("ball", "star", "heart", "ring", "flower", "box")
STAGES = ("embed", "search", "load", "denoise", "decode", "encode")


@dataclass(frozen=True, slots=True)
class Sample:
    """One answered request: client's wall seconds, the service's own denoise seconds, K."""

    wall: float
    denoise: float
    skipped: int


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` takes fewer pairs."""
    pairs = 8 if quick else 32
    with live_service(matching="paper") as url, httpx.Client(base_url=url, timeout=300) as client:
        prompts = [f"a {c} {s} on a meadow" for c in COLOURS for s in SHAPES][: pairs + 1]
        measured = [_pair(client, prompt) for prompt in prompts][1:]  # the first pair warms up
        stages = _stage_means(client.get("/metrics").text)
    return _report([full for full, _ in measured], [hit for _, hit in measured], stages)


def _pair(client: httpx.Client, prompt: str) -> tuple[Sample, Sample]:
    full = _request(client, prompt)
    _wait_stored(client)
    return full, _request(client, prompt)


def _request(client: httpx.Client, prompt: str) -> Sample:
    body = {
        "prompt": prompt,
        "num_inference_steps": STEPS,
        "cache": {"mode": "approximate", "max_skip_ratio": SKIP / STEPS},
    }
    started = time.perf_counter()
    answer = client.post("/v1/images/generations", json=body)
    wall = time.perf_counter() - started
    answer.raise_for_status()
    cache = answer.json()["data"][0]["cache"]
    return Sample(wall, float(answer.headers["X-Denoise-Time"]), int(cache["skipped_steps"]))


def _wait_stored(client: httpx.Client) -> None:
    """Cache writes happen behind the answer; let them end so that they do not run inside the next sample."""
    time.sleep(0.3)


def _stage_means(metrics: str) -> dict[str, float]:
    """Mean milliseconds per stage, from the service's own histogram."""
    means = {}
    for stage in STAGES:
        total, count = (
            re.search(rf'headstart_stage_seconds_{part}{{stage="{stage}"}} (\S+)', metrics)
            for part in ("sum", "count")
        )
        if total and count and float(count[1]):
            means[stage] = 1000 * float(total[1]) / float(count[1])
    return means


def _report(fulls: list[Sample], hits: list[Sample], stages: dict[str, float]) -> dict[str, Any]:
    used = [(full, hit) for full, hit in zip(fulls, hits, strict=True) if hit.skipped == SKIP]
    if not used:
        raise RuntimeError(f"no request resumed at K = {SKIP}: got {[hit.skipped for hit in hits]}")
    saved = [(full.wall - hit.wall) for full, hit in used]
    ideal = [full.wall * SKIP / STEPS for full, _ in used]
    realised = ratio_interval(saved, ideal)
    overhead = [1000 * (sample.wall - sample.denoise) for pair in used for sample in pair]
    share = [(hit.wall - hit.denoise) / hit.wall for _, hit in used]
    return {
        "headline": {
            "realised_over_ideal": realised["value"],
            "overhead_ms": statistics.median(overhead),
            "overhead_share": statistics.fmean(share),
        },
        "realised_over_ideal": realised,
        "overhead_ms": mean_interval(overhead),
        "stage_ms": stages,
        "full_ms": mean_interval([1000 * full.wall for full, _ in used]),
        "hit_ms": mean_interval([1000 * hit.wall for _, hit in used]),
        "pairs_at_k25": len(used),
        "pairs": len(fulls),
        "steps": STEPS,
        "k": SKIP,
    }
