"""Is a log of real-looking sessions served cheaper, and are its pictures still right?

Replays `loadtest/sample_log.jsonl` (synthetic: invented users) through Locust against a live service with default
settings, twice: with the cache, and uncached. The judge scores both sets of pictures against what each prompt pins
down. The uncached replay is the floor for quality; the ceiling for saving is steps x requests.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.facts import Floats, mean_interval, ratio_interval
from benchmarks.live import live_service
from training.judge import Judge

LOG = Path("loadtest/sample_log.jsonl")
SPEED = 3.0


def run(*, quick: bool, quiet: bool) -> dict[str, Any]:
    """Measure and return the report; `quick` replays the first 60 requests."""
    limit = 60 if quick else 0
    cached = _replay("auto", limit)
    uncached = _replay("off", limit)
    ratio = ratio_interval(cached["scores"], uncached["scores"])
    summary = cached["summary"]
    return {
        "headline": {
            "failures": summary["failures"] + uncached["summary"]["failures"],
            "hit_share": summary["hit_share"],
            "mean_skip_share_of_hits": summary["mean_skip_share_of_hits"],
            "steps_saved_share": summary["steps_saved_share"],
            "gpu_seconds_ratio": _spent(cached) / _spent(uncached),
            "judge_ratio": ratio["value"],
        },
        "judge_ratio": ratio,
        "judge_cached": mean_interval(cached["scores"]),
        "judge_uncached": mean_interval(uncached["scores"]),
        "judge_by_verdict": _by_verdict(cached),
        "cached": summary,
        "uncached": uncached["summary"],
        "step_ms": {"cached": _step_ms(cached), "uncached": _step_ms(uncached)},
        "speed": SPEED,
    }


def _replay(mode: str, limit: int) -> dict[str, Any]:
    """Replay against a fresh service and judge every picture."""
    with tempfile.TemporaryDirectory(prefix="headstart-replay-") as folder, live_service() as url:
        report = Path(folder) / "report.json"
        command = [
            sys.executable, "-m", "locust", "-f", "loadtest/locustfile.py", "--headless", "--host", url,
            "--log", str(LOG), "--speed", str(SPEED), "--limit", str(limit), "--cache-mode", mode,
            "--report", str(report), "--save-images", folder, "--loglevel", "ERROR",
        ]  # fmt: skip
        finished = subprocess.run(command, capture_output=True, text=True, timeout=3000, check=False)
        if not report.exists():
            raise RuntimeError(f"the replay left no report: {finished.stderr[-800:]}")
        made = json.loads(report.read_text())
        scores = _judge(made["outcomes"], Path(folder))
    return {"summary": made["summary"], "outcomes": made["outcomes"], "scores": scores}


def _judge(outcomes: list[dict[str, Any]], folder: Path) -> Floats:
    """Share of the log's `expects` that each picture shows, in the order of the log; a failure scores 0."""
    outcomes.sort(key=lambda outcome: outcome["line"])
    expects = [json.loads(line)["expects"] for line in LOG.read_text().splitlines() if line.strip()]
    judge, scores = Judge.load(), []
    for outcome in outcomes:
        if outcome["image"] is None:
            scores.append(0.0)
            continue
        wanted = expects[outcome["line"] - 1]
        pixels = np.asarray(Image.open(folder / outcome["image"]).convert("RGB"), dtype=np.float32) / 255
        seen = judge.attributes(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0]
        scores.append(float(np.mean([seen[name] == value for name, value in wanted.items()])))
    return np.array(scores)


def _by_verdict(replay: dict[str, Any]) -> dict[str, Any]:
    verdicts = np.array([outcome["verdict"] or "FAILED" for outcome in replay["outcomes"]])
    return {str(kind): mean_interval(replay["scores"][verdicts == kind]) for kind in np.unique(verdicts)}


def _step_ms(replay: dict[str, Any]) -> float:
    """Device milliseconds per step that was run, decoding included.

    Shows what the cache's own work does to a step when it shares the engine's cores, and what smaller batches do.
    """
    steps = sum(o["steps"] - o["skipped"] + o["wasted"] for o in replay["outcomes"] if o["error"] is None)
    return 1000 * _spent(replay) / int(steps)


def _spent(replay: dict[str, Any]) -> float:
    return float(replay["summary"]["spent_gpu_seconds"])
