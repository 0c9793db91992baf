"""What does the HTTP path cost where the engine costs nothing?

The whole service, API to chronicle, around an engine that returns a ready picture at once; beside it LitServe (if an
interpreter that has it is named) and one bare FastAPI route under the same uvicorn. All three take the same request,
encode the same picture as PNG and answer the same JSON around it. One closed-loop client with some connections; short
turns of all systems alternate, so that drift of the machine falls on all alike. Ratios of requests per second.

The service does more than the others do: it checks every field, plans, counts, writes a line to the log and a record
to Redis, watches whether the client hangs up. `exact` are repeats of one picture that the cache answers.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.facts import ratio_interval
from benchmarks.live import free_port, live_process

ROOT = Path(__file__).parent.parent
Call = tuple[str, dict[str, Any]]
OFF = {"prompt": "a small red ball on a meadow", "cache": {"mode": "off"}}
EXACT = {"prompt": "a small red ball on a meadow", "seed": 7}
CONNECTIONS = 16
PATIENCE_SECONDS = 600.0
LITSERVE = "LITSERVE_PYTHON"
"""Variable that names the interpreter, as an alternative to `--litserve-python`."""


def run(*, quick: bool, quiet: bool, litserve_python: str | None = None) -> dict[str, Any]:
    """Measure and return the report.

    Args:
        quick: fewer and shorter turns.
        quiet: print nothing on the way.
        litserve_python: an interpreter that has LitServe; None = the variable `LITSERVE_PYTHON`, or none.
    """
    rounds, seconds = (5, 2.0) if quick else (20, 4.0)
    python = litserve_python or os.environ.get(LITSERVE)
    with _systems(python) as urls:
        calls: dict[str, Call] = {"headstart": (urls["headstart"], OFF), "exact": (urls["headstart"], EXACT)}
        calls |= {name: (url, OFF) for name, url in urls.items() if name != "headstart"}
        for url, body in calls.values():
            _turn(url, body, 1.0)
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, (url, body) in calls.items():
                measured[name].append(_turn(url, body, seconds))
                if not quiet:
                    print(name, measured[name][-1], file=sys.stderr)
    return _report(measured, rounds, seconds)


@contextmanager
def _systems(litserve_python: str | None) -> Iterator[dict[str, str]]:
    """Start all systems, yield their base URLs by name."""
    programs = {"headstart": [sys.executable, "-m", "benchmarks.http.headstart"]}
    programs["bare_fastapi"] = [sys.executable, "-m", "benchmarks.http.bare"]
    if litserve_python is not None:
        programs["litserve"] = [litserve_python, "-m", "benchmarks.http.with_litserve"]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headstart-api-"))
        environment = os.environ | {
            "HEADSTART_DATA_DIR": f"{folder}/data",
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(ROOT),
        }
        urls = {}
        for name, command in programs.items():
            port = free_port()
            started = live_process([*command, str(port)], port, environment, PATIENCE_SECONDS)
            urls[name] = stack.enter_context(started)
        yield urls


def _turn(url: str, body: dict[str, Any], seconds: float) -> dict[str, float]:
    """Return requests per second and latencies of one turn, measured from a process of its own."""
    command = [sys.executable, "-m", "benchmarks.http.load", url, json.dumps(body), str(seconds), str(CONNECTIONS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=PATIENCE_SECONDS)
    return dict(json.loads(done.stdout))


def _report(measured: dict[str, list[dict[str, float]]], rounds: int, seconds: float) -> dict[str, Any]:
    rates = {name: [turn["rps"] for turn in turns] for name, turns in measured.items()}
    ratios = {
        f"rps_over_{name}": ratio_interval(rates["headstart"], rates[name]) for name in rates if name != "headstart"
    }
    headline = {name: None if (found := ratios.get(name)) is None else found["value"] for name in HEADLINE}
    return {
        "headline": headline,
        **ratios,
        "systems": {
            name: {figure: statistics.median(turn[figure] for turn in turns) for figure in turns[0]}
            for name, turns in measured.items()
        },
        "connections": CONNECTIONS,
        "rounds": rounds,
        "seconds_per_turn": seconds,
    }


HEADLINE = ("rps_over_litserve", "rps_over_bare_fastapi")
