"""`headstart calibrate matching`: which states may serve which prompts, measured on the deployed model."""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import typer

from policies.matching.table import ThresholdTable
from service.calibrate.driver import CalibrationError
from service.calibrate.files import writable_folder
from service.calibrate.jobs import Advanced, JobRunner, RunSettings
from service.calibrate.matching.fit import Bound, LevelFit, fit_table, hits_needed
from service.calibrate.matching.forms import WAYS, FormExperiment, FormTrial
from service.calibrate.matching.forms_fit import FormReport, fit_forms
from service.calibrate.matching.pairs import MatchPair, neighbouring_pairs, proposable, read_pairs
from service.calibrate.matching.pictures import Strips, contact_sheet, plot, plot_forms
from service.calibrate.matching.trials import (
    BLOCK,
    Experiment,
    Kept,
    Notebook,
    Numbered,
    Trial,
    distinct_levels,
)
from service.embedder import Embedder
from service.endings import BAD_INPUT, FAILED, INTERRUPTED, stop
from service.engine import EngineConfig
from service.engine.base import EngineStartError, ModelInfo
from service.engine.quantise import Quantise
from service.judges import JudgeError, load_judge, shipped_judge

QUICK = "_quick"
"""Ends the names of what proves nothing: a service takes a table called `matching.json` from beside its model."""
QUICK_PAIRS = 64
_ALL_VETOED = "the lexical veto lets none of these pairs pass: there is nothing to calibrate"
_NOTHING_ALIKE = (
    "no prompt of this log has an earlier one that is like it, is not the same text, and passes the lexical veto: "
    "there is nothing to calibrate on; give more of the log"
)


@dataclass(frozen=True, slots=True)
class Request:
    """The command line; None = the model's own default."""

    model: str
    judge: str | None
    prompts: Path | None
    pairs: int
    bound: float
    confidence: float
    visible: float | None
    steps: int | None
    solver: str | None
    guidance: float | None
    levels: str
    quick: bool
    out: Path | None
    device: str
    dtype: str
    quantise: str
    batch: int
    final: bool = False


@dataclass(frozen=True, slots=True)
class Files:
    """What is written at the end, in one folder."""

    folder: Path
    ending: str

    @property
    def table(self) -> Path:
        """The threshold table."""
        return self.named("matching", ".json")

    def named(self, name: str, kind: str) -> Path:
        """A file of this calibration."""
        return self.folder / f"{name}{self.ending}{kind}"


def run_matching(request: Request) -> None:
    """Calibrate, and write table, plot and contact sheet.

    Raises:
        typer.Exit: it cannot be done; why was said in one line.
    """
    try:
        _calibrate(request)
    except KeyboardInterrupt:
        stop("interrupted; what was done is kept, and the same command goes on from there", INTERRUPTED)
    except OSError as error:  # the disk is full, say: what is in the notebook stays
        stop(f"cannot go on: {error}", FAILED)


def _calibrate(request: Request) -> None:
    try:
        levels = _levels(request.levels)
        _check(request)
        given = read_pairs(request.prompts, request.model)
        folder = writable_folder(request.out or _beside(request.model), request.model)
        judge = load_judge(_judge_name(request), "cpu" if request.device == "auto" else request.device)
        embedder = Embedder()
        pairs, similarity = _pairs(given, embedder, QUICK_PAIRS if request.quick else request.pairs)
    except (CalibrationError, JudgeError) as error:
        stop(error, BAD_INPUT)
    config = EngineConfig(
        model=request.model,
        kind="local",
        device=request.device,
        dtype=request.dtype,
        quantise=cast(Quantise, request.quantise),
        max_batch=request.batch,
    )
    try:
        runner = JobRunner(config)
    except EngineStartError as error:
        stop(error, FAILED)
    with runner:
        run = _settings(request, runner.info, levels)
        bound = Bound(request.bound, request.confidence, judge.loss if request.visible is None else request.visible)
        strips = Strips(folder / "matching_pairs")
        lab = Experiment(runner, judge, run, pictures=strips.keep)
        about = _about(request, run, runner.info, judge.name)
        try:
            notebook = Notebook(folder / "matching_trials.jsonl", about, pairs, Trial)
            _fill(notebook, list(_numbered(pairs, similarity)), lab.jobs_per_pair, lab.trials, _label(run))
            forms = _forms(lab, notebook, about, pairs, similarity, folder) if request.final else []
        except (CalibrationError, RuntimeError) as error:
            stop(error, FAILED)
        key = _key(runner.info, embedder.digest)
    if not any(math.isfinite(trial.early) for trial in notebook.trials):
        stop("no pair is alike enough, or the judge can read none of these prompts: nothing is learned", FAILED)
    about |= {
        "pairs": len(notebook.done),
        "bound": bound.rate,
        "confidence": bound.confidence,
        "visible": bound.visible,
    }
    table, fits = fit_table(notebook.trials, bound, key, about, run.steps)
    report = fit_forms(forms, table, bound)
    table = replace(table, adequate_form=report.adequate_form)
    files = Files(folder, QUICK if request.quick else "")
    table.save(files.table)
    _draw(notebook.trials, pairs, table, bound, strips, files)
    _say(fits, bound, table, files.table)
    if request.final:
        _report_forms(report, table, bound, len({trial.pair for trial in forms}), files)


def _beside(model: str) -> Path | None:
    return Path(model) if Path(model).is_dir() else None


def _levels(text: str) -> tuple[float, ...]:
    try:
        levels = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        raise CalibrationError(f"levels are shares of the steps with commas between, not {text!r}") from None
    if not all(0.0 < level < 1.0 for level in levels):
        raise CalibrationError(f"levels must lie in (0, 1), got {text}")
    return levels


def _check(request: Request) -> None:
    for name, value in (("bound", request.bound), ("confidence", request.confidence)):
        if not 0.0 < value < 1.0:
            raise CalibrationError(f"{name} must lie in (0, 1), got {value}")
    if request.pairs < 1 or request.batch < 1:
        raise CalibrationError("pairs and batch must be at least 1")
    # With NaN no loss would ever be seen, and every bound be kept.
    if request.visible is not None and not 0.0 <= request.visible < math.inf:
        raise CalibrationError(f"visible must be a number of at least 0, got {request.visible}")
    if request.guidance is not None and not 0.0 <= request.guidance < math.inf:
        raise CalibrationError(f"guidance must be a number of at least 0, got {request.guidance}")


def _judge_name(request: Request) -> str:
    """The judge that was asked for, or the one that ships with the model."""
    if request.judge:
        return request.judge
    shipped = shipped_judge(request.model)
    if shipped is None:
        raise CalibrationError(
            "this model names no judge: give one with --judge, as clip:openai/clip-vit-base-patch32"
        )
    return shipped


def _pairs(
    given: Sequence[MatchPair] | Sequence[str], embedder: Embedder, count: int
) -> tuple[tuple[MatchPair, ...], list[float]]:
    """The first `count` pairs that could be proposed at all, and the similarity of each.

    Raises:
        CalibrationError: there is none.
    """
    prompts = [entry for entry in given if isinstance(entry, str)]
    pairs = proposable((entry for entry in given if isinstance(entry, MatchPair)), count)
    if prompts:
        with typer.progressbar(prompts, label="embedding", file=sys.stderr) as bar:
            vectors = np.stack([embedder.embed_now(prompt) for prompt in bar])
        pairs = neighbouring_pairs(prompts, vectors, count, seed=0)
    if not pairs:
        raise CalibrationError(_NOTHING_ALIKE if prompts else _ALL_VETOED)
    sources = np.stack([embedder.embed_now(pair.source) for pair in pairs])
    targets = np.stack([embedder.embed_now(pair.target) for pair in pairs])
    return pairs, [float(value) for value in (sources * targets).sum(axis=1)]


def _settings(request: Request, info: ModelInfo, levels: tuple[float, ...]) -> RunSettings:
    steps = info.default_steps if request.steps is None else request.steps
    solver = info.solvers[0] if request.solver is None else request.solver
    if solver not in info.solvers:
        stop(f"unknown solver {solver!r}; this model has {', '.join(info.solvers)}", BAD_INPUT)
    kept = distinct_levels(levels, steps)
    if not kept:
        stop(f"a run of {steps} steps has no state at {request.levels}", BAD_INPUT)
    return RunSettings(steps, solver, info.default_guidance if request.guidance is None else request.guidance, kept)


def _about(request: Request, run: RunSettings, info: ModelInfo, judge: str) -> dict[str, Any]:
    return {
        "judge": judge,
        "steps": run.steps,
        "solver": run.solver,
        "guidance": run.guidance_scale,
        "levels_tried": list(run.capture),
        "model": info.weights_digest,
        "dtype": info.dtype,
        "quantise": request.quantise,
    }


def _key(info: ModelInfo, embedder: str) -> dict[str, str]:
    key = {"weights_digest": info.weights_digest, "embedder_digest": embedder, "schedule": info.schedule}
    return key | ({"dtype": info.dtype} if info.quantised else {})


def _numbered(pairs: Sequence[MatchPair], similarity: Sequence[float]) -> Iterator[Numbered]:
    for number, (pair, cosine) in enumerate(zip(pairs, similarity, strict=True)):
        yield number, pair, float(cosine)


def _label(run: RunSettings) -> str:
    return f"{run.solver}, {run.steps} steps"


def _fill(
    notebook: Notebook[Kept],
    pairs: Sequence[Numbered],
    jobs_per_pair: int,
    trials: Callable[[Sequence[Numbered], Advanced], Sequence[Kept]],
    label: str,
) -> None:
    """Run what the notebook does not hold yet."""
    left = [pair for pair in pairs if pair[0] not in notebook.done]
    label = f"{label}, {len(left)} pairs"
    with typer.progressbar(length=len(left) * jobs_per_pair, label=label, file=sys.stderr) as bar:
        for start in range(0, len(left), BLOCK):
            block = left[start : start + BLOCK]
            notebook.add([number for number, _, _ in block], trials(block, bar.update))


def _forms(
    lab: Experiment,
    notebook: Notebook[Trial],
    about: dict[str, Any],
    pairs: Sequence[MatchPair],
    similarity: Sequence[float],
    folder: Path,
) -> list[FormTrial]:
    """Resume the pairs that were not given up from states made again, and return all trials of them."""
    found = {trial.pair: trial for trial in notebook.trials if math.isfinite(trial.early)}
    experiment = FormExperiment(lab, found)
    told = about | {"ways": [way.name for way in WAYS]}
    forms = Notebook(folder / "matching_forms.jsonl", told, pairs, FormTrial)
    numbered = [one for one in _numbered(pairs, similarity) if one[0] in found]
    _fill(forms, numbered, experiment.jobs_per_pair, experiment.trials, f"states made again, {_label(lab.run)}")
    return [trial for trial in forms.trials if trial.pair in found]


def _draw(
    trials: Sequence[Trial],
    pairs: Sequence[MatchPair],
    table: ThresholdTable,
    bound: Bound,
    strips: Strips,
    files: Files,
) -> None:
    prompts = [(pair.source, pair.target) for pair in pairs]
    sheet = contact_sheet(strips, trials, prompts, table, bound)
    if sheet is not None:
        sheet.save(files.named("matching_sheet", ".png"))
    try:
        plot(trials, table, bound, files.named("matching", ".png"))
    except ImportError:
        typer.echo("no plot: matplotlib is not installed", err=True)


def _report_forms(report: FormReport, table: ThresholdTable, bound: Bound, pairs: int, files: Files) -> None:
    report.save(files.named("matching_forms", ".json"), table, pairs)
    try:
        plot_forms(report, bound, files.named("matching_forms", ".png"))
    except ImportError:
        typer.echo("no plot: matplotlib is not installed", err=True)
    for name, levels in report.ways.items():
        for at in levels:
            shown = at.every if at.max_divergence is None else at.within
            gate = "" if at.kept is None else f", the gate lets {at.kept:.0%} of them through"
            rate = f"bad-hit rate {shown.rate:.2%} of {shown.hits}, at most {shown.upper:.2%}"
            typer.echo(f"{at.skip:6.1%} skipped, {name}: {rate}{gate}; RMS distance {shown.distance:.3f}")
    typer.echo(f"kept of a run by HEADSTART_STATE_FORM=auto: {report.adequate_form}")


def _say(fits: Sequence[LevelFit], bound: Bound, table: ThresholdTable, path: Path) -> None:
    for fit in fits:
        rate = f"bad-hit rate {fit.rate:.2%} of {fit.hits}, at most {fit.upper:.2%} at {bound.confidence:.0%}"
        typer.echo(f"{fit.skip:6.1%} skipped: divergence <= {fit.max_divergence:.3f} ({rate})")
    if table.rows:
        typer.echo(f"similarity >= {table.rows[0].min_similarity:.3f}; written to {path}")
        return
    typer.echo(
        f"no level keeps a bad-hit rate of {bound.rate:.1%} at {bound.confidence:.0%}: only the same text is served. "
        f"That takes {hits_needed(bound)} hits at least; more pairs, or a laxer --bound.",
        err=True,
    )
