"""From checkpoints to the folders that ship: a Stable Diffusion and a PixArt-Σ pipeline, and how to load them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import NotRequired, TypedDict

import torch
from diffusers import DiffusionPipeline, PixArtSigmaPipeline, StableDiffusionPipeline

from training.denoiser import new_scheduler
from training.dit import load_dit
from training.latents import standard_vae
from training.loop import DIT_FOLDER, RUNS, UNET_FOLDER
from training.sampling import ScenesPipeline, Solver
from training.t5 import load_t5
from training.text import load_text
from training.unet import load_unet


class Defaults(TypedDict):
    """How the shipped model is best sampled; the content of ``headstart.json``."""

    default_guidance: float
    default_steps: int
    image_size: int
    default_solver: NotRequired[Solver]
    judge: NotRequired[str]


def build_unet_pipeline() -> StableDiffusionPipeline:
    """The pipeline of the UNet's checkpoint, in single precision."""
    tokenizer, encoder = load_text()
    return StableDiffusionPipeline(
        vae=standard_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        unet=load_unet(),
        scheduler=new_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_dit_pipeline() -> PixArtSigmaPipeline:
    """The pipeline of the transformer's checkpoint, in single precision."""
    tokenizer, encoder = load_t5()
    return PixArtSigmaPipeline(
        vae=standard_vae(),
        text_encoder=encoder,
        tokenizer=tokenizer,
        transformer=load_dit(),
        scheduler=new_scheduler(),
    )


def export_unet() -> None:
    """Write ``models/scenes-unet``."""
    _export(build_unet_pipeline(), UNET_FOLDER)
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(RUNS / "tokenizer" / name, UNET_FOLDER / "tokenizer" / name)


def export_dit() -> None:
    """Write ``models/scenes-dit``."""
    _export(build_dit_pipeline(), DIT_FOLDER)


def _export(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Write a pipeline with half-precision weights that load in single precision.

    What else lies in ``folder`` (defaults, threshold tables) stays as it is.
    """
    pipeline.set_progress_bar_config(disable=True)
    for part in pipeline.components:
        shutil.rmtree(folder / part, ignore_errors=True)
    pipeline.to(torch.float16).save_pretrained(str(folder))
    config = folder / "text_encoder" / "config.json"
    facts = json.loads(config.read_text())
    facts.pop("torch_dtype", None)
    config.write_text(json.dumps({**facts, "dtype": "float32"}, indent=2) + "\n")
    for weights in folder.rglob("*.safetensors"):
        weights.chmod(0o644)
    if not (folder / "headstart.json").exists():
        judge = "training.judge.maps:scenes"
        write_defaults({"default_guidance": 3.0, "default_steps": 50, "image_size": 128, "judge": judge}, folder)


def read_defaults(folder: Path = UNET_FOLDER) -> Defaults:
    """The sampling defaults that ship with the model in ``folder``."""
    facts: Defaults = json.loads((folder / "headstart.json").read_text())
    return facts


def write_defaults(defaults: Defaults, folder: Path = UNET_FOLDER) -> None:
    """Write the sampling defaults beside the model."""
    (folder / "headstart.json").write_text(json.dumps(defaults, indent=2) + "\n")


def load_pipeline(folder: Path = UNET_FOLDER) -> ScenesPipeline:
    """A shipped pipeline, offline, in single precision, without progress bars."""
    pipeline: ScenesPipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
