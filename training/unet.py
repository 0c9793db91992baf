"""The denoiser: a small UNet2DConditionModel on 16x16x8 latents, trained to predict v."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor

from training.denoiser import Team, Trainer, averaged
from training.text import WIDTH, load_text, tokenise
from training.vae import LATENT_CHANNELS, LATENT_SIZE


def new_unet() -> UNet2DConditionModel:
    """An untrained two-level UNet with cross-attention at both levels, 6 M parameters."""
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=(96, 144),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        attention_head_dim=4,
        norm_num_groups=16,
    )
    unet.set_attn_processor(AttnProcessor())  # on CPUs its backward pass is twice as fast
    return unet


class UnetTrainer(Trainer):
    """Trains the UNet on the latents themselves."""

    name = "unet"
    adam_only = ("conv_in", "conv_out")

    def __init__(self, minutes: float, seed: int, team: Team) -> None:
        super().__init__(minutes, seed, team)
        self.tokenizer, self.encoder = load_text()

    def new_model(self) -> UNet2DConditionModel:
        """See ``new_unet``."""
        return new_unet()

    def velocities(
        self, texts: list[str], noisy: torch.Tensor, times: torch.Tensor, truth: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The UNet's v, and the true one."""
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                states = self.encoder(tokenise(self.tokenizer, texts)).last_hidden_state
            output = self.model(noisy, times, states.float()).sample
        return output.float(), truth


def load_unet() -> UNet2DConditionModel:
    """The averaged weights of ``runs/unet.pt``, in evaluation mode."""
    unet = new_unet()
    averaged(UnetTrainer, unet)
    return unet
