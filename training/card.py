"""The model card: every figure and picture in it is generated, none is typed in."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from training.evaluate import RESULTS, prompts
from training.export import load_pipeline, read_defaults
from training.loop import DIT_FOLDER, MODELS, RUNS, UNET_FOLDER
from training.sampling import sample, with_solver
from training.scenes import NOVEL_PAIRS

HISTORY = MODELS / "training_log.json"
_STAGES = ("vae", "text", "judge", "unet", "t5", "dit")
_ROWS, _COLUMNS = 3, 5
_SHEET_SEED = 42


def write_history() -> None:
    """Gather the stages' logs into ``models/training_log.json``."""
    logs: dict[str, Any] = {}
    for stage in _STAGES:
        path = RUNS / f"{stage}.json"
        if path.exists():
            log = json.loads(path.read_text())
            stride = max(1, len(log["records"]) // 150)
            log["records"] = log["records"][::stride] + log["records"][-1:]
            logs[stage] = log
    if logs:
        HISTORY.write_text(json.dumps(logs) + "\n")


def plot_history(path: Path) -> None:
    """Loss against minutes, one panel per stage."""
    logs = json.loads(HISTORY.read_text())
    figure, axes = plt.subplots(1, len(logs), figsize=(3.2 * len(logs), 2.6))
    for axis, (stage, log) in zip(np.atleast_1d(axes), logs.items(), strict=True):
        minutes = [row["seconds"] / 60 for row in log["records"]]
        axis.plot(minutes, [row["loss"] for row in log["records"]], lw=1)
        axis.set(title=stage, xlabel="minutes", yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("training loss")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def contact_sheet(path: Path, folder: Path) -> list[str]:
    """A grid of a model's pictures for held-out prompts; returns the prompts in reading order."""
    defaults = read_defaults(folder)
    texts = [one.text for one in prompts("heldout", _ROWS * _COLUMNS, _SHEET_SEED)]
    pipeline = with_solver(load_pipeline(folder), defaults.get("default_solver", "ddim"))
    parts = sample(pipeline, texts, defaults["default_steps"], defaults["default_guidance"], _SHEET_SEED)
    pictures = (torch.cat(list(parts)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    grid = pictures.reshape(_ROWS, _COLUMNS, 128, 128, 3).swapaxes(1, 2)
    sheet = Image.fromarray(grid.reshape(_ROWS * 128, _COLUMNS * 128, 3))
    sheet.save(path, optimize=True)
    return texts


def _share(figures: dict[str, Any]) -> str:
    low, high = figures["interval95"]
    return f"{figures['score']:.1%} ({low:.1%} to {high:.1%}, {figures['pictures']} pictures)"


def _attribute_table(heldout: dict[str, float], novel: dict[str, float]) -> str:
    rows = ["| attribute | held-out prompts | never-trained combinations |", "|---|---|---|"]
    rows += [f"| {k} | {heldout[k]:.1%} | {novel.get(k, float('nan')):.1%} |" for k in heldout]
    return "\n".join(rows)


def _parameters(folder: Path) -> dict[str, str]:
    parts = load_pipeline(folder).components
    counts = {
        name: sum(weight.numel() for weight in part.parameters())
        for name, part in parts.items()
        if isinstance(part, torch.nn.Module)
    }
    return {name: f"{count / 1e6:.1f}" for name, count in counts.items()}


def _size_mb(folder: Path) -> str:
    return f"{sum(f.stat().st_size for f in folder.rglob('*') if f.is_file()) / 1e6:.1f}"


def _model_facts(prefix: str, folder: Path, figures: dict[str, Any]) -> dict[str, str]:
    """What the card says of one model, by placeholder."""
    defaults, heldout, novel = (
        read_defaults(folder),
        figures[f"{prefix}model_heldout"],
        figures[f"{prefix}model_novel"],
    )
    facts = {
        "guidance": str(defaults["default_guidance"]),
        "steps": str(defaults["default_steps"]),
        "solver": defaults.get("default_solver", "ddim"),
        "sweep_guidance": json.dumps(figures.get(f"{prefix}guidance_sweep", {}).get("scores", {})),
        "model_heldout": _share(heldout),
        "model_novel": _share(novel),
        "whole": f"{heldout['wholly_right']:.1%}",
        "attributes": _attribute_table(heldout["by_attribute"], novel["by_attribute"]),
    }
    return {prefix + name: fact for name, fact in facts.items()}


def write_card() -> None:
    """Write ``models/README.md``, ``contact_sheet.png`` and ``loss.png`` from the recorded figures.

    Raises:
        FileNotFoundError: ``python -m training evaluate`` has not been run.
    """
    write_history()
    plot_history(MODELS / "loss.png")
    texts = contact_sheet(MODELS / "contact_sheet.png", UNET_FOLDER)
    contact_sheet(MODELS / "contact_sheet_dit.png", DIT_FOLDER)
    figures = json.loads(RESULTS.read_text())
    logs = json.loads(HISTORY.read_text())
    judged = figures["judge"]
    facts = {
        **{f"p_{k}": v for k, v in _parameters(UNET_FOLDER).items()},
        **{f"dit_p_{k}": v for k, v in _parameters(DIT_FOLDER).items()},
        **{f"min_{k}": f"{log['records'][-1]['seconds'] / 60:.0f}" for k, log in logs.items()},
        "unet_steps": str(logs["unet"]["records"][-1]["step"]),
        "size": _size_mb(UNET_FOLDER),
        "judge_size": _size_mb(MODELS / "scenes-judge"),
        "dit_steps_trained": str(logs["dit"]["records"][-1]["step"]),
        "dit_size": _size_mb(DIT_FOLDER),
        **_model_facts("", UNET_FOLDER, figures),
        **_model_facts("dit_", DIT_FOLDER, figures),
        **{k: _share(v) for k, v in judged.items()},
        "pairs": ", ".join(f"{colour} {shape}" for shape, colour in sorted(NOVEL_PAIRS)),
        "prompts": "\n".join(f"{k + 1}. {text}" for k, text in enumerate(texts)),
    }
    template = Template((Path(__file__).parent / "card_template.md").read_text())
    (MODELS / "README.md").write_text(template.substitute(facts))
