"""The small autoencoder: 128x128x3 pictures to 16x16x8 latents and back (Rombach et al., 2022)."""

from __future__ import annotations

import logging

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

from training.loop import RUNS, Run
from training.optim import Optimisers
from training.pool import Pixels, draw_shard, load_pool
from training.scenes.drawing import object_mask
from training.scenes.spec import Scene

LATENT_CHANNELS = 8
LATENT_SIZE = 16
_BATCH = 4
_KL_WEIGHT = 1e-4
_VALID_SEED = 90_001


def new_vae() -> AutoencoderKL:
    """An untrained autoencoder with no attention, 2.6 M parameters."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(16, 32, 64, 128),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        sample_size=128,
        mid_block_add_attention=False,
    )


def to_tensor(pixels: Pixels) -> torch.Tensor:
    """uint8 [B, H, W, 3] to float [B, 3, H, W] in [-1, 1], channels last in memory."""
    images = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return images.float() / 127.5 - 1.0


def _slopes(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return images[..., 1:, :] - images[..., :-1, :], images[..., 1:] - images[..., :-1]


def reconstruction_loss(output: torch.Tensor, target: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """L1 on pixels, on their differences (so edges stay sharp) and on a half-size picture.

    Args:
        output: the autoencoder's pictures [B, 3, H, W].
        target: the true pictures, same shape.
        weight: how much each pixel counts [B, 1, H, W].
    """
    error = output - target
    down, right = _slopes(error)
    loss = (weight * error).abs().mean()
    loss = loss + 0.5 * (weight[..., 1:, :] * down).abs().mean()
    loss = loss + 0.5 * (weight[..., 1:] * right).abs().mean()
    return loss + 0.5 * F.avg_pool2d(weight * error, 2).abs().mean()


def _weights(scenes: list[Scene]) -> torch.Tensor:
    """Things count four times as much as backgrounds, [B, 1, 128, 128]."""
    masks = np.stack([object_mask(scene) for scene in scenes])
    return 1 + 3 * torch.from_numpy(masks)[:, None]


def _loss(vae: AutoencoderKL, images: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(images).latent_dist
        output = vae.decode(posterior.sample()).sample
    log_var = posterior.logvar.float()
    divergence = 0.5 * (posterior.mean.float() ** 2 + log_var.exp() - 1 - log_var).mean()
    loss: torch.Tensor = _KL_WEIGHT * divergence
    return loss + reconstruction_loss(output.float(), images, weight)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: torch.Tensor) -> torch.Tensor:
    """Pictures through the autoencoder and back, float [B, 3, H, W] in [-1, 1]."""
    parts = []
    for part in torch.split(images, 16):
        with torch.autocast("cpu", torch.bfloat16):
            parts.append(vae.decode(vae.encode(part).latent_dist.mode()).sample.float().clamp(-1, 1))
    return torch.cat(parts)


def psnr(output: torch.Tensor, target: torch.Tensor) -> float:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1]."""
    return float(10 * torch.log10(4 / F.mse_loss(output, target)))


def train_vae(minutes: float, seed: int = 0) -> None:
    """Train on the pool until the budget is spent; resumes from ``runs/vae.pt``."""
    torch.manual_seed(seed)
    run = Run("vae", minutes)
    vae = new_vae().to(memory_format=torch.channels_last)
    adam_only = ("conv_in", "encoder.conv_out", "decoder.conv_out", "quant_conv")
    optimisers = Optimisers(vae, muon_lr=0.01, adam_lr=2e-3, adam_only=adam_only)
    if (state := run.restore()) is not None:
        vae.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimisers"])
    pixels, scenes = load_pool(RUNS / "pool-train")
    valid = to_tensor(draw_shard([_VALID_SEED], "heldout", 48)[0])
    rng = np.random.default_rng([seed, run.step])
    for step in run.steps():
        picks = np.sort(rng.integers(len(pixels), size=_BATCH))
        weight = _weights([scenes[p] for p in picks])
        loss = _loss(vae, to_tensor(pixels[picks]), weight)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimisers.step(run.rate())
        if step % 200 == 0:
            quality = psnr(reconstruct(vae, valid), valid)
            run.log(loss=round(loss.item(), 4), valid_psnr=round(quality, 2))
        if run.due():
            run.save(model=vae.state_dict(), optimisers=optimisers.state_dict())
    run.save(model=vae.state_dict(), optimisers=optimisers.state_dict())
    logging.getLogger(__name__).info("vae: %d steps", run.step)


def load_vae() -> AutoencoderKL:
    """The trained autoencoder of ``runs/vae.pt``, in evaluation mode."""
    vae = new_vae()
    vae.load_state_dict(torch.load(RUNS / "vae.pt", weights_only=True)["model"])
    return vae.eval().to(memory_format=torch.channels_last)
