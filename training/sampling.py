"""Pictures from prompts through the plain diffusers pipeline, in batches, seeded per picture."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, PixArtSigmaPipeline, StableDiffusionPipeline

ScenesPipeline: TypeAlias = StableDiffusionPipeline | PixArtSigmaPipeline
# PixArt's own habits, which suit neither pictures of 128x128 nor captions of 40 tokens.
_PIXART: dict[str, Any] = {
    "height": 128,
    "width": 128,
    "use_resolution_binning": False,
    "max_sequence_length": 40,
    "clean_caption": False,
}

Solver = Literal["ddim", "dpmpp_2m"]


def with_solver(pipeline: ScenesPipeline, solver: Solver) -> ScenesPipeline:
    """Set the pipeline's scheduler: DDIM or DPM-Solver++ 2M (Lu et al., 2022)."""
    config = pipeline.scheduler.config
    if solver == "ddim":
        pipeline.scheduler = DDIMScheduler.from_config(config)
    else:
        pipeline.scheduler = DPMSolverMultistepScheduler.from_config(
            config, algorithm_type="dpmsolver++", solver_order=2, final_sigmas_type="zero"
        )
    return pipeline


def sample(
    pipeline: ScenesPipeline,
    prompts: list[str],
    steps: int,
    guidance: float,
    seed: int = 0,
    batch: int = 16,
) -> Iterator[torch.Tensor]:
    """Pictures of the prompts, batch by batch, each [b, 3, 128, 128] in [0, 1].

    Args:
        pipeline: a scenes pipeline.
        prompts: one prompt per picture.
        steps: denoising steps.
        guidance: scale of classifier-free guidance.
        seed: picture i starts from the noise of seed ``seed + i``.
        batch: pictures at once.
    """
    own = _PIXART if isinstance(pipeline, PixArtSigmaPipeline) else {}
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        seeds = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            pictures = pipeline(
                part,
                num_inference_steps=steps,
                guidance_scale=guidance,
                generator=seeds,
                output_type="pt",
                **own,
            ).images
        yield pictures.float()
