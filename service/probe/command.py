"""`headstart probe smoothness`: options to a wish, progress, the report, and one clear line on bad input."""

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from service.calibrate.driver import CalibrationError
from service.calibrate.files import read_prompts
from service.embedder import Embedder, EmbedderError
from service.endings import BAD_INPUT, FAILED, stop
from service.engine.base import EngineStartError, Pipeline
from service.engine.loading import load_pipeline
from service.probe.pairs import spread_pairs
from service.probe.smoothness import Wish, probe_smoothness
from service.probe.walking import Setting, deterministic_solvers

PAIRS, LEVELS = 16, 6
QUICK_PAIRS, QUICK_LEVELS, QUICK_STEPS = 4, 4, 8
MOST_STEPS = 1000
MOST_PAIRS = 10_000


@dataclass(frozen=True, slots=True)
class Request:
    """The command line; None = the default."""

    model: str
    prompts: Path | None
    pairs: int | None
    steps: int | None
    solver: str | None
    guidance: float | None
    seed: int
    device: str
    dtype: str
    quick: bool
    json: Path | None
    plot: Path | None


class ProbeError(Exception):
    """What was asked for cannot be done; the message is one clear line."""


def run_smoothness(request: Request) -> None:
    """Probe, and tell.

    Raises:
        typer.Exit: it cannot be done; why was said in one line.
    """
    try:
        prompts = _prompts(request)
        _check_targets(request)
    except (ProbeError, CalibrationError) as error:
        stop(error, BAD_INPUT)
    try:
        pipeline = load_pipeline(request.model, request.device, request.dtype)
        vectors = Embedder().embed_many(prompts)
    except (EngineStartError, EmbedderError) as error:
        stop(error, FAILED)
    try:
        wanted = request.pairs or (QUICK_PAIRS if request.quick else PAIRS)
        setting = _setting(request, pipeline)
        levels = QUICK_LEVELS if request.quick else LEVELS
        wish = Wish(prompts, tuple(spread_pairs(vectors, wanted)), setting, levels, request.seed)
        report = _measured(pipeline, wish)
    except ProbeError as error:
        stop(error, BAD_INPUT)
    _save(request, report)
    for line in summary(report):
        typer.echo(line)


def _prompts(request: Request) -> tuple[str, ...]:
    if request.pairs is not None and not 2 <= request.pairs <= MOST_PAIRS:
        raise ProbeError(f"pairs must be 2 to {MOST_PAIRS}, got {request.pairs}")
    prompts = tuple(dict.fromkeys(read_prompts(request.prompts, request.model)))
    # Three prompts make three pairs; two make one, and nothing to call unrelated.
    if len(prompts) < 3:
        raise ProbeError(f"at least 3 different prompts are needed, got {len(prompts)}")
    return prompts


def _check_targets(request: Request) -> None:
    for path in (request.json, request.plot):
        if path is not None and not path.parent.is_dir():
            raise ProbeError(f"cannot write {path}: there is no folder {path.parent}")
        if path is not None and path.is_dir():
            raise ProbeError(f"cannot write {path}: it is a folder")
    if request.plot is not None:
        _check_plot(request.plot)


def _check_plot(path: Path) -> None:
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise ProbeError("--plot needs matplotlib: pip install matplotlib") from None
    known = sorted(FigureCanvasBase.get_supported_filetypes())
    ending = path.suffix.removeprefix(".").lower()
    if ending and ending not in known:
        raise ProbeError(f"cannot draw {path.name}: its name must end in one of {', '.join(known)}")


def _setting(request: Request, pipeline: Pipeline) -> Setting:
    info = pipeline.info
    solvers = deterministic_solvers(pipeline)
    solver = request.solver or solvers[0]
    if solver not in solvers:
        raise ProbeError(f"solver {solver!r} cannot be probed; this model's that can: {', '.join(solvers)}")
    usual = min(QUICK_STEPS, info.default_steps) if request.quick else info.default_steps
    steps = usual if request.steps is None else request.steps
    if not 2 <= steps <= MOST_STEPS:
        raise ProbeError(f"steps must be 2 to {MOST_STEPS}, got {steps}")
    guidance = info.default_guidance if request.guidance is None else request.guidance
    if not (math.isfinite(guidance) and guidance >= 0.0):
        raise ProbeError(f"guidance must be a number of at least 0, got {guidance}")
    setting = Setting(solver, steps, guidance, info.width, info.height)
    try:
        pipeline.grid(solver, steps, info.width, info.height)
    except ValueError as error:
        raise ProbeError(f"solver {solver!r} cannot do {steps} steps: {error}") from error
    return setting


def _measured(pipeline: Pipeline, wish: Wish) -> dict[str, Any]:
    info, setting, started = pipeline.info, wish.setting, time.perf_counter()
    title = f"{setting.solver}, {setting.steps} steps"
    with typer.progressbar(length=wish.work, label=title, file=sys.stderr) as bar:
        measures = probe_smoothness(pipeline, wish, bar.update)
    return {
        "model": info.model_id,
        "weights_digest": info.weights_digest,
        "prediction_type": info.prediction_type,
        "dtype": info.dtype,
        "solver": setting.solver,
        "steps": setting.steps,
        "guidance": setting.guidance,
        "size": [setting.width, setting.height],
        "pairs": len(wish.pairs),
        "seed": wish.seed,
        "seconds": round(time.perf_counter() - started, 1),
        **measures,
    }


def _save(request: Request, report: dict[str, Any]) -> None:
    try:
        if request.json is not None:
            request.json.write_text(json.dumps(finite(report), indent=1, allow_nan=False) + "\n", "utf-8")
        if request.plot is not None:
            from service.probe.plot import draw_smoothness

            draw_smoothness(report, request.plot)
    except OSError as error:
        stop(f"cannot write {error.filename}: {error.strerror}", FAILED)


def summary(report: dict[str, Any]) -> list[str]:
    """Return a report in a few lines."""
    istd, r, resumed = report["istd"], report["variation"], report["resume_sensitivity"]
    steps = f"{report['solver']}, {report['steps']} steps, guidance {report['guidance']:g}, {report['pairs']} pairs"
    depths = ", ".join(f"{100 * row['share']:.0f} % {row['mean']:.3f}" for row in resumed["depths"])
    kinds = ", ".join(f"{kind} {istd[kind]['value']:.2f} ({istd[kind]['relative']:.3f})" for kind in istd)
    return [
        f"{report['model']}: {steps}, {report['seconds']:.0f} s",
        f"ISTD (relative): {kinds}",
        f"variation r: mean {r['mean']:.4f}, coefficient of variation {r['cv']:.3f}",
        f"resume sensitivity (ours) {resumed['value']:.3f}; by share skipped: {depths or 'too few steps'}",
    ]


def finite(value: Any) -> Any:
    """Return a report with what is not a number as null: JSON has no NaN."""
    if isinstance(value, dict):
        return {name: finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
