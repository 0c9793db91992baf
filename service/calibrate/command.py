"""`headstart calibrate`: progress, what was fitted, and one clear line where it cannot be done."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import typer

from policies.features.artefact_file import Artefact
from service.calibrate.driver import Calibration, CalibrationError, RunFailed, Wish
from service.calibrate.files import read_prompts, writable_folder
from service.endings import BAD_INPUT, FAILED, stop
from service.engine.base import EngineStartError
from service.engine.loading import load_pipeline
from service.engine.quantise import Quantise


@dataclass(frozen=True, slots=True)
class Request:
    """The command line; None = the model's own default."""

    model: str
    policy: str
    solver: str | None
    steps: int | None
    guidance: float | None
    width: int | None
    height: int | None
    prompts: Path | None
    samples: int
    seed: int
    branch: int
    out: Path | None
    device: str
    dtype: str
    quantise: str


def run_features(request: Request) -> None:
    """Calibrate and write what was fitted.

    Raises:
        typer.Exit: it cannot be done; why was said in one line.
    """
    try:
        prompts = read_prompts(request.prompts, request.model)
        folder = writable_folder(request.out, request.model)
    except CalibrationError as error:
        stop(error, BAD_INPUT)
    quantise = cast(Quantise, request.quantise)
    try:
        pipeline = load_pipeline(request.model, request.device, request.dtype, quantise=quantise)
    except EngineStartError as error:
        stop(error, FAILED)
    info = pipeline.info
    wish = Wish(
        prompts=prompts,
        solver=request.solver or info.solvers[0],
        steps=info.default_steps if request.steps is None else request.steps,
        guidance=info.default_guidance if request.guidance is None else request.guidance,
        width=request.width or info.width,
        height=request.height or info.height,
        policies=tuple(name.strip() for name in request.policy.split(",")),
        samples=request.samples,
        seed=request.seed,
        branch=request.branch,
    )
    title = f"{wish.solver}, {wish.steps} steps"
    try:
        calibration = Calibration(pipeline, wish)
        with typer.progressbar(length=wish.samples * wish.steps, label=title, file=sys.stderr) as bar:
            fitted = calibration.run(bar.update)
        for artefact in fitted.artefacts:
            typer.echo(_line(artefact, artefact.save(folder)))
    except CalibrationError as error:
        stop(error, FAILED if isinstance(error, RunFailed) else BAD_INPUT)
    except OSError as error:
        stop(f"cannot write to {folder}: {error.strerror}", FAILED)
    typer.echo(f"{wish.samples} runs of {wish.steps} steps in {fitted.seconds:.0f} s")


def _line(artefact: Artefact, path: Path) -> str:
    notes = ", ".join(f"{name} {value:.4g}" for name, value in artefact.notes.items())
    return f"{artefact.key.method}: {notes}; {path.stat().st_size / 1000:.1f} kB in {path}"
