"""From checkpoints to the folders that ship: a Stable Diffusion pipeline and the judge."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from diffusers import StableDiffusionPipeline

from training.latents import standard_vae
from training.loop import RUNS
from training.sampling import Solver
from training.text import load_text
from training.unet import load_unet, new_scheduler

MODELS = Path(__file__).parent.parent / "models"
UNET_FOLDER = MODELS / "scenes-unet"
JUDGE_FOLDER = MODELS / "scenes-judge"


class Defaults(TypedDict):
    """How the shipped model is best sampled; the content of ``headstart.json``."""

    default_guidance: float
    default_steps: int
    image_size: int
    default_solver: NotRequired[Solver]


def build_pipeline() -> StableDiffusionPipeline:
    """The pipeline of the current checkpoints, in single precision."""
    tokenizer, encoder = load_text()
    pipeline = StableDiffusionPipeline(
        vae=standard_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=load_unet(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def export_pipeline(folder: Path = UNET_FOLDER) -> None:
    """Write the pipeline with half-precision weights that load in single precision.

    What else lies in ``folder`` (defaults, threshold tables) stays as it is.
    """
    pipeline = build_pipeline().to(torch.float16)
    for part in ("unet", "vae", "text_encoder", "tokenizer", "scheduler"):
        shutil.rmtree(folder / part, ignore_errors=True)
    pipeline.save_pretrained(str(folder))
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(RUNS / "tokenizer" / name, folder / "tokenizer" / name)
    config = folder / "text_encoder" / "config.json"
    facts = json.loads(config.read_text())
    facts.pop("torch_dtype", None)
    config.write_text(json.dumps({**facts, "dtype": "float32"}, indent=2) + "\n")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    if not (folder / "headstart.json").exists():
        write_defaults({"default_guidance": 3.0, "default_steps": 50, "image_size": 128}, folder)


def read_defaults(folder: Path = UNET_FOLDER) -> Defaults:
    """The sampling defaults that ship with the model in ``folder``."""
    facts: Defaults = json.loads((folder / "headstart.json").read_text())
    return facts


def write_defaults(defaults: Defaults, folder: Path = UNET_FOLDER) -> None:
    """Write the sampling defaults beside the model."""
    (folder / "headstart.json").write_text(json.dumps(defaults, indent=2) + "\n")


def load_pipeline(folder: Path = UNET_FOLDER) -> StableDiffusionPipeline:
    """The shipped pipeline, offline, in single precision, without progress bars."""
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
