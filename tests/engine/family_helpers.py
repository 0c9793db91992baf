"""How a discrete family is held against diffusers' own pipeline, and a joint batch against each of its jobs alone."""

import numpy as np
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, UniPCMultistepScheduler
from engine_helpers import spec
from flow_helpers import draw, final_latent, final_latents

SCHEDULERS = {
    "ddim": DDIMScheduler,
    "euler": EulerDiscreteScheduler,
    "dpmpp_2m": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
# Two prompts, two step counts, two solvers; three scales, one of them none.
MIXED = (
    spec("a", steps=9, solver="euler", guidance_scale=4.0, negative_prompt="blue"),
    spec("b", steps=9, solver="euler", guidance_scale=1.0, prompt="two green balls", seed=8),
    spec("c", steps=6, solver="dpmpp_2m", guidance_scale=2.0, seed=9),
)


def reference(kind: type, folder, **settings):
    """Diffusers' own pipeline."""
    pipe = kind.from_pretrained(folder, **settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def swap_solver(pipe, solver: str) -> None:
    pipe.scheduler = SCHEDULERS[solver].from_config(pipe.scheduler.config)


def assert_equals_diffusers(pipeline, pipe, item, **more) -> None:
    latent = final_latent(pipeline, item)
    expected = draw(pipe, item, "latent", **more)
    # Random weights that predict noise make large latents, so a share of the largest.
    torch.testing.assert_close(latent, expected, atol=1e-5 * max(1.0, float(expected.abs().max())), rtol=0)
    image = pipeline.decode(latent[None])[0]
    assert image.shape == (item.height, item.width, 3)
    assert np.abs(image - (draw(pipe, item, "np", **more) * 255).round()).max() <= 1


def assert_joint_equals_alone(pipeline, specs=MIXED) -> None:
    joint = final_latents(pipeline, *specs)
    for item in specs:
        latent = final_latent(pipeline, item)
        torch.testing.assert_close(joint[item.job_id], latent, atol=1e-4, rtol=0)
        images = [pipeline.decode(one[None]).astype(int) for one in (joint[item.job_id], latent)]
        assert np.abs(images[0] - images[1]).max() <= 1
