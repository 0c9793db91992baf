"""The `headstart` command."""

from importlib.metadata import version as installed_version
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from service.endings import stop
from service.keys_command import keys
from service.settings import Settings, SettingsError, load_settings
from service.settings.reference import settings_reference

app = typer.Typer(help="Text-to-image serving with approximate caching.", no_args_is_help=True, add_completion=False)
calibration = typer.Typer(help="Measure what approximations need to know of a model.", no_args_is_help=True)
app.add_typer(calibration, name="calibrate")
probes = typer.Typer(help="Find out what a model is like, without a cache.", no_args_is_help=True)
app.add_typer(probes, name="probe")
app.add_typer(keys, name="keys")

BAD_SETTINGS = 2
START_FAILED = 1


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
    model: Annotated[str | None, typer.Option(help="Folder of a diffusers pipeline, or a hub id.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Folder of catalogue, states and pictures.")] = None,
    device: Annotated[str | None, typer.Option(help="Torch device: auto, cpu, cuda, …")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Serve the API, the metrics and the page until SIGTERM; every other setting is a HEADSTART_… variable."""
    settings = _settings(host=host, port=port, model=model, data_dir=data_dir, device=device, log_level=log_level)
    # Imported here so that `headstart settings` and a bad setting answer at once.
    from service.access import KeyringError
    from service.server import NotGuardedError, check_guarded, run_server
    from service.tracing import TracingError

    try:
        check_guarded(settings)
        served = run_server(settings)
    except (NotGuardedError, KeyringError, TracingError) as error:
        stop(error, BAD_SETTINGS)
    raise typer.Exit(0 if served else START_FAILED)


@calibration.command("features")
def calibrate_features(
    model: Annotated[str | None, typer.Option(help="Folder of a diffusers pipeline, or a hub id.")] = None,
    policy: Annotated[
        str, typer.Option(help="teacache, magcache, smoothcache, cachequant, several with commas, or all.")
    ] = "all",
    solver: Annotated[str | None, typer.Option(help="Default: the model's.")] = None,
    steps: Annotated[int | None, typer.Option(help="N. Default: the model's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale. Default: the model's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. Default: the model's.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. Default: the model's.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="One prompt a line. Default: the model's features/prompts.txt.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Runs.")] = 8,
    seed: Annotated[int, typer.Option(help="Of the first run; the next ones follow.")] = 900_001,
    branch: Annotated[int, typer.Option(help="Where a UNet is cut (cachequant); 0 saves most.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: the model's features.")] = None,
    device: Annotated[str, typer.Option(help="Torch device: auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16; serve with the same.")] = "auto",
    quantise: Annotated[str, typer.Option(help="none or int8; serve with the same.")] = "none",
) -> None:
    """Run a model in full a few times and write what its calibrated feature cache policies need."""
    chosen = model or _settings().model
    from service.calibrate.command import Request, run_features

    size = (width, height)
    place = (device, dtype, quantise)
    run_features(Request(chosen, policy, solver, steps, guidance, *size, prompts, samples, seed, branch, out, *place))


@calibration.command("matching")
def calibrate_matching(
    model: Annotated[str | None, typer.Option(help="Folder of a diffusers pipeline, or a hub id.")] = None,
    judge: Annotated[
        str | None, typer.Option(help="clip:MODEL, or module:function of your own. Default: the model's.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="Prompt log, one a line, or .jsonl of source, target. Default: matching_pairs.jsonl there."
        ),
    ] = None,
    pairs: Annotated[int, typer.Option(help="Pairs of prompts.")] = 600,
    bound: Annotated[float, typer.Option(help="Largest bad-hit rate.")] = 0.01,
    confidence: Annotated[float, typer.Option(help="With which the bound is shown.")] = 0.9,
    visible: Annotated[float | None, typer.Option(help="Loss of score a user sees. Default: the judge's.")] = None,
    steps: Annotated[int | None, typer.Option(help="N. Default: the model's.")] = None,
    solver: Annotated[str | None, typer.Option(help="Default: the model's.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale. Default: the model's.")] = None,
    levels: Annotated[str, typer.Option(help="Shares of the steps to skip.")] = "0.1,0.2,0.3,0.4,0.5",
    quick: Annotated[bool, typer.Option(help="64 pairs only: to see that it works.")] = False,
    final: Annotated[
        bool,
        typer.Option(
            "--final",
            help="Also measure states made again from clean latents, and cache.diversity: about four times as long.",
        ),
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder to write to. Default: the model's.")] = None,
    device: Annotated[str, typer.Option(help="Torch device: auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16; serve with the same.")] = "auto",
    quantise: Annotated[str, typer.Option(help="none or int8; serve with the same.")] = "none",
    batch: Annotated[int, typer.Option(help="Rows per joint batch.")] = 16,
) -> None:
    """Measure how deep a neighbour's run may be entered, and write the threshold table that is served by."""
    chosen = model or _settings().model
    from service.calibrate.matching.command import Request, run_matching

    sampling = (steps, solver, guidance, levels, quick)
    what = (prompts, pairs, bound, confidence, visible)
    run_matching(Request(chosen, judge, *what, *sampling, out, device, dtype, quantise, batch, final))


@probes.command("smoothness")
def probe_smoothness(
    model: Annotated[str | None, typer.Option(help="Folder of a diffusers pipeline, or a hub id.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="One prompt a line. Default: the model's features/prompts.txt.")
    ] = None,
    pairs: Annotated[int | None, typer.Option(help="Pairs of prompts. Default: 16.")] = None,
    steps: Annotated[int | None, typer.Option(help="N. Default: the model's.")] = None,
    solver: Annotated[str | None, typer.Option(help="A deterministic one. Default: the model's first.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Scale. Default: the model's.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**62, help="Of the first noise; the next ones follow.")] = 700_001,
    device: Annotated[str, typer.Option(help="Torch device: auto, cpu, cuda, …")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    quick: Annotated[bool, typer.Option(help="4 pairs, at most 8 steps.")] = False,
    json: Annotated[Path | None, typer.Option(help="Write the report here.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it here (needs matplotlib).")] = None,
) -> None:
    """Measure how smoothly a model maps noise and prompts to pictures: ISTD, variation, resume sensitivity."""
    chosen = model or _settings().model
    from service.probe.command import Request, run_smoothness

    run_smoothness(Request(chosen, prompts, pairs, steps, solver, guidance, seed, device, dtype, quick, json, plot))


@app.command()
def simulate(
    log: Annotated[Path, typer.Argument(help="Prompt log: CSV, TSV, JSON Lines (.gz too), Parquet, or own log.")],
    policies: Annotated[str, typer.Option(help="Eviction policies, separated by commas, or all.")] = "all",
    sizes: Annotated[
        str, typer.Option(help="Cache sizes: shares of all states (5%) or bytes (64MiB).")
    ] = "1%,2%,5%,10%,20%,50%",
    table: Annotated[
        str, typer.Option(help="Matching: paper, one similarity for all levels (0.9), or a threshold table's file.")
    ] = "paper",
    admission: Annotated[str, typer.Option(help="miss-only, partial, no-repeats or everything.")] = "partial",
    candidates: Annotated[int, typer.Option(help="Neighbours looked at.")] = 8,
    max_depth: Annotated[int, typer.Option(help="Longest chain of resumes whose states are kept.")] = 3,
    levels: Annotated[str, typer.Option(help="Shares of the steps with states.")] = "0.1,0.2,0.3,0.4,0.5",
    state_bytes: Annotated[int, typer.Option(help="Size of a stored state.")] = 32 * 1024,
    form: Annotated[str, typer.Option(help="trajectory, or final: one state for any level.")] = "trajectory",
    steps: Annotated[int, typer.Option(help="N.")] = 50,
    step_seconds: Annotated[float, typer.Option(help="Device seconds of one step of one request.")] = 1.0,
    warm_up: Annotated[float, typer.Option(help="Share of the log that only fills the cache.")] = 0.0,
    honour_seeds: Annotated[
        bool, typer.Option(help="Requests with a seed: exact repeats or full runs, as in the service.")
    ] = False,
    seed_column: Annotated[str, typer.Option(help="Column that holds seeds.")] = "seed",
    limit: Annotated[int | None, typer.Option(help="Read this many requests at most.")] = None,
    baselines: Annotated[bool, typer.Option(help="Also replay Nirvana and MoDM.")] = True,
    out: Annotated[Path, typer.Option(help="Folder for report and pictures.")] = Path("var/simulation"),
    embeddings: Annotated[Path, typer.Option(help="Folder of the vectors that are kept.")] = Path("var/embeddings"),
    quiet: Annotated[bool, typer.Option(help="No progress bars.")] = False,
) -> None:
    """Replay a prompt log against caches of several sizes and policies, and recommend one of them."""
    from service.simulation import simulate_log

    given = {name: value for name, value in locals().items() if name != "simulate_log"}
    try:
        simulate_log(given, typer.echo)
    except ValueError as error:
        typer.echo(f"headstart: {error}", err=True)
        raise typer.Exit(BAD_SETTINGS) from None


@app.command("settings")
def show_settings() -> None:
    """Print every setting, its default and what it does, as Markdown."""
    typer.echo(settings_reference())


@app.command()
def openapi(
    markdown: Annotated[bool, typer.Option("--markdown", help="As a reference to read instead of JSON.")] = False,
) -> None:
    """Print the OpenAPI document of the API; the running service answers the same at /openapi.json."""
    # Imported here: it brings the whole service along.
    from service.api.app import create_app
    from service.api.reference import api_reference

    document = create_app(_settings()).openapi()
    typer.echo("\n".join(api_reference(document)) if markdown else dumps(document, indent=1))


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(installed_version("headstart"))


def _settings(**given: Any) -> Settings:
    try:
        return load_settings(**given)
    except SettingsError as error:
        stop(error, BAD_SETTINGS)


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
