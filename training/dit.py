"""The second denoiser: a small PixArtTransformer2DModel on the same latents, taught by the UNet.

A transformer has no built-in idea of neighbourhood and needs far more pictures than a UNet to find one. The UNet's v
at the same noisy latent is the mean that the noise hides (what the loss converges to anyway), so learning from it
costs one more forward and takes nearly all the variance out of the target (knowledge distillation, Hinton et al.,
2015, arXiv 1503.02531).
"""

from __future__ import annotations

import torch
from diffusers import PixArtTransformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

from training.denoiser import Team, Trainer, averaged
from training.loop import UNET_FOLDER
from training.t5 import encode_texts, load_t5
from training.text import WIDTH, tokenise
from training.vae import LATENT_CHANNELS, LATENT_SIZE

_HEADS, _HEAD_WIDTH, _LAYERS = 4, 64, 8


def new_dit() -> PixArtTransformer2DModel:
    """An untrained transformer of eight blocks, 256 wide, on 64 tokens of 2x2 latent cells, 9 M parameters."""
    dit = PixArtTransformer2DModel(
        num_attention_heads=_HEADS,
        attention_head_dim=_HEAD_WIDTH,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=_LAYERS,
        cross_attention_dim=_HEADS * _HEAD_WIDTH,
        sample_size=LATENT_SIZE,
        patch_size=2,
        caption_channels=WIDTH,
        use_additional_conditions=False,
        interpolation_scale=1,
    )
    dit.set_attn_processor(AttnProcessor())  # on CPUs its backward pass is twice as fast
    return dit


class _Teacher:
    """The shipped UNet in half precision, with its own text encoder."""

    def __init__(self) -> None:
        load = {"pretrained_model_name_or_path": str(UNET_FOLDER), "local_files_only": True}
        self._unet = UNet2DConditionModel.from_pretrained(**load, subfolder="unet").to(torch.bfloat16).eval()
        self._tokenizer = CLIPTokenizer.from_pretrained(str(UNET_FOLDER / "tokenizer"))
        self._encoder = CLIPTextModel.from_pretrained(str(UNET_FOLDER / "text_encoder")).to(torch.bfloat16).eval()

    @torch.inference_mode()
    def __call__(self, texts: list[str], noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
        states = self._encoder(tokenise(self._tokenizer, texts)).last_hidden_state
        velocity: torch.Tensor = self._unet(noisy.bfloat16(), times, states).sample
        return velocity.float()


class DitTrainer(Trainer):
    """Trains the transformer on what the UNet makes of noisy latents."""

    name = "dit"
    adam_only = ("pos_embed", "proj_out", "adaln_single", "scale_shift_table", "caption_projection")

    def __init__(self, minutes: float, seed: int, team: Team) -> None:
        super().__init__(minutes, seed, team)
        self.tokenizer, self.encoder = load_t5()
        self.teacher = _Teacher()

    def new_model(self) -> PixArtTransformer2DModel:
        """See ``new_dit``."""
        return new_dit()

    def velocities(
        self, texts: list[str], noisy: torch.Tensor, times: torch.Tensor, truth: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The transformer's v, and the UNet's."""
        wanted = self.teacher(texts, noisy, times).clone()
        with torch.autocast("cpu", torch.bfloat16):
            with torch.no_grad():
                states, mask = encode_texts(self.tokenizer, self.encoder, texts)
            output = self.model(
                noisy,
                encoder_hidden_states=states.float(),
                timestep=times,
                encoder_attention_mask=mask,
                added_cond_kwargs={"resolution": None, "aspect_ratio": None},
                return_dict=False,
            )[0]
        return output.float(), wanted


def load_dit() -> PixArtTransformer2DModel:
    """The averaged weights of ``runs/dit.pt``, in evaluation mode."""
    dit = new_dit()
    averaged(DitTrainer, dit)
    return dit
