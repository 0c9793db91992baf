"""What does everything around denoising cost, and how much of the saving by step count is realised?

Against a live service whose matching admits K = 25 for a repeated prompt (the paper's table; the shipped one may
stop earlier), otherwise with default settings: full runs of N = 50 (looked up, but no neighbour is similar enough)
and approximate hits that enter at K = 25, alternating, so that drift of the machine falls on both alike; each right
after a short uncached run, because cores that have idled take their first steps up to a tenth slower. Floor: a hit
at K of N cannot take less than (N - K)/N of the denoising time of a full run, i.e. the ideal saving is K/N of the
full run's wall time.
"""

import re
import statistics
import time
from dataclasses import dataclass
from typing import Any

import httpx

from benchmarks.facts import mean_interval, ratio_interval
from benchmarks.live import live_service

STEPS, SKIP, WARM_STEPS = 50, 25, 20
COLOURS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "white")
SHAPES = ("ball", "star", "heart", "ring", "flower", "box")
STAGES = ("embed", "search", "load", "decode", "encode")


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
    full = _request(client, prompt, min_similarity=1.0)
    return full, _request(client, prompt, min_similarity=0.95)


def _request(client: httpx.Client, prompt: str, min_similarity: float) -> Sample:
    _settle(client)
    body = {
        "prompt": prompt,
        "num_inference_steps": STEPS,
        "cache": {"mode": "approximate", "max_skip_ratio": SKIP / STEPS, "min_similarity": min_similarity},
    }
    started = time.perf_counter()
    answer = client.post("/v1/images/generations", json=body)
    wall = time.perf_counter() - started
    answer.raise_for_status()
    cache = answer.json()["data"][0]["cache"]
    return Sample(wall, float(answer.headers["X-Denoise-Time"]), int(cache["skipped_steps"]))


def _settle(client: httpx.Client) -> None:
    """Let cache writes, which happen behind the answer, end outside the next sample; then warm the cores."""
    time.sleep(0.3)
    body = {"prompt": "warm-up", "num_inference_steps": WARM_STEPS, "cache": {"mode": "off"}}
    client.post("/v1/images/generations", json=body).raise_for_status()


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
    used = [(full, hit) for full, hit in zip(fulls, hits, strict=True) if (full.skipped, hit.skipped) == (0, SKIP)]
    if not used:
        got = [(full.skipped, hit.skipped) for full, hit in zip(fulls, hits, strict=True)]
        raise RuntimeError(f"no full run was followed by one that resumed at K = {SKIP}: got {got}")
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
