"""The README's picture: `python -m benchmarks.picture`. A prompt, its stored state, a rewording resumed from it."""

from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from policies.matching.table import ThresholdTable
from service.engine.base import ImageArray, JobResult, JobSpec
from training.calibrate import MODEL
from training.lab import Lab, resume_point

OUT = Path("docs/images/headstart.png")
SKIP = 0.3
EXAMPLES = (
    ("a large striped blue ball on a meadow", "on a meadow, there is a big blue ball with stripes"),
    ("a small yellow star above a red heart at night", "at night: a red heart below a little yellow star"),
    ("a large striped blue ball on a meadow", "a large striped blue ball in the desert"),
)


def main() -> None:
    """Run the examples through the engine, with the shipped table's gate, and draw them."""
    table = ThresholdTable.load(MODEL / "matching.json")
    row = min(table.rows, key=lambda r: abs(r.skip - SKIP))
    figure = plt.figure(figsize=(11.5, 3.05 * len(EXAMPLES)), dpi=90)
    with Lab(str(MODEL)) as lab:
        info = lab.info
        for line, (first, second) in enumerate(EXAMPLES):
            spec = JobSpec(
                f"a{line}", first, "", 7 + line, info.default_steps, info.default_guidance, info.solvers[0],
                info.width, info.height, capture=(row.skip,),
            )  # fmt: skip
            source = lab.run([spec], "source")[0]
            follow = replace(spec, job_id=f"b{line}", prompt=second, seed=107 + line, capture=())
            point = resume_point(source.captured[0], row.max_divergence)
            hit = lab.run([replace(follow, resume=(point,))], "resumed")[0]
            full = lab.run([replace(follow, job_id=f"c{line}")], "full")[0]
            _line(figure, line, (first, second), (source, hit, full))
    figure.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.02, wspace=0.05, hspace=0.25)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(OUT)


def _line(figure: Figure, line: int, prompts: tuple[str, str], runs: tuple[JobResult, JobResult, JobResult]) -> None:
    source, hit, _ = runs
    told = (
        f"resumed: {hit.skipped} of {hit.steps} steps skipped"
        if hit.resumed is not None
        else f"gate refused the state: full run (+{hit.wasted} step)"
    )
    titles = (
        f"“{prompts[0]}”\n{source.steps} steps, state kept at step {round(source.captured[0].skip * source.steps)}",
        f"“{prompts[1]}”\n{told}, divergence {hit.divergences[0]:.2f}",
        "the same prompt from pure noise\n(for comparison)",
    )
    for column, (run, title) in enumerate(zip(runs, titles, strict=True)):
        _tile(figure, len(EXAMPLES), 3 * line + column + 1, run.image, title)


def _tile(figure: Figure, lines: int, place: int, image: ImageArray, title: str) -> None:
    axis = figure.add_subplot(lines, 3, place)
    axis.imshow(image, interpolation="bicubic")
    axis.set_title(title, fontsize=8.5)
    axis.axis("off")


if __name__ == "__main__":
    main()
