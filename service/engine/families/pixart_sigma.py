"""PixArt-Σ (Chen et al. 2024, arXiv 2403.04692) over diffusers' own model classes."""

from pathlib import Path
from typing import Any

import torch
from diffusers import PixArtSigmaPipeline
from torch import Tensor
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from service.engine.base import Condition, EngineStartError, Lora, Rows
from service.engine.families.common import EncodedPrompts
from service.engine.families.discrete import DiscreteFamily, Traits
from service.engine.features.backbone import Inputs
from service.engine.placement import Placement

PROMPT_TOKENS = 300
"""Longest prompt the model was trained on, in T5 tokens; every prompt is padded to it."""
# One encoded prompt takes megabytes: 300 states as wide as T5-XXL.
ENCODED_PROMPTS = 64


class PixArtSigma(DiscreteFamily):
    """A `Pipeline` over PixArtTransformer2DModel, AutoencoderKL and the T5 encoder.

    A picture is drawn at the very size asked for, not at the nearest trained aspect ratio. As in diffusers without
    caption cleaning, prompts are lower-cased and stripped.

    Args:
        folder: local folder in diffusers' layout.
        model_id: the name it is known by.
        place: where and how it runs.

    Raises:
        EngineStartError: the folder is not a complete text-to-image PixArt-Σ.
    """

    def __init__(self, folder: Path, model_id: str, place: Placement) -> None:
        _check_tokenizer(folder / "tokenizer")
        parts = PixArtSigmaPipeline.from_pretrained(folder, dtype=place.dtype, local_files_only=True)
        _check(parts)
        super().__init__(parts, place)
        self._text_encoder = parts.text_encoder.to(place.device).eval()
        self._tokenizer = parts.tokenizer
        self._encoded = EncodedPrompts(self._adapters.encoder(self._encode_one), ENCODED_PROMPTS)
        config = self._denoiser.config
        traits = Traits(
            "pixart-sigma", config.sample_size, config.patch_size, config.in_channels, steps=20, guidance=4.5
        )
        self.info = self._describe(folder, model_id, traits)

    def encode(
        self, prompt: str, width: int, height: int, *, negative: bool = False, loras: tuple[Lora, ...] = ()
    ) -> Condition:
        """Return {"states": text-encoder states [300, D], "mask": 1 where there is text [300]}.

        Transformers that are told the picture's size also get {"resolution": [2], "aspect_ratio": [1]}.
        """
        text = self._encoded.get(prompt, loras)
        if not self._denoiser.use_additional_conditions:
            return text
        resolution = torch.tensor([height, width], dtype=torch.float32, device=self._device)
        return {**text, "resolution": resolution, "aspect_ratio": resolution[:1] / resolution[1:]}

    def _inputs(self, order: Tensor, rows: Rows, conditions: Condition) -> Inputs:
        states, mask = self._text(conditions)
        return {
            "hidden_states": rows.latents[order].to(self._dtype),
            "encoder_hidden_states": states,
            "encoder_attention_mask": mask,
            "timestep": rows.timesteps[order],
            "added_cond_kwargs": {name: conditions.get(name) for name in ("resolution", "aspect_ratio")},
        }

    def _text(self, conditions: Condition) -> tuple[Tensor, Tensor]:
        """Return states and mask without the padding that all rows share.

        Masked states count for nothing, but on a CPU they cost most of the time. On a GPU they cost little, and fixed
        shapes are worth more, as they are to a compiler.
        """
        states, mask = conditions["states"], conditions["mask"]
        if mask.device.type != "cpu" or self._place.compiled:
            return states, mask
        longest = int(mask.sum(1).max())
        return states[:, :longest], mask[:, :longest]

    @torch.inference_mode()
    def _encode_one(self, prompt: str) -> Condition:
        tokens = self._tokenizer(
            [prompt.lower().strip()],
            padding="max_length",
            max_length=PROMPT_TOKENS,
            truncation=True,
            return_tensors="pt",
        )
        mask: Tensor = tokens.attention_mask.to(self._device)
        states: Tensor = self._text_encoder(tokens.input_ids.to(self._device), attention_mask=mask)[0]
        return {"states": states[0].to(self._dtype), "mask": mask[0]}


def _check_tokenizer(folder: Path) -> None:
    """Say what is missing: the released models hold a SentencePiece file, which transformers cannot read alone."""
    if not (folder / "spiece.model").is_file() or (folder / "tokenizer.json").is_file():
        return
    if not (is_sentencepiece_available() and is_protobuf_available()):
        raise EngineStartError(
            "the tokenizer is a SentencePiece model: install sentencepiece and protobuf to read it"
        )


def _check(parts: Any) -> None:
    if parts.text_encoder is None or parts.tokenizer is None:
        raise EngineStartError("the T5 text encoder is missing: not a complete PixArt-Σ model")
    network, channels = parts.transformer, parts.vae.config.latent_channels
    if network.config.in_channels != channels or network.out_channels not in (channels, 2 * channels):
        raise EngineStartError(
            f"the transformer takes {network.config.in_channels} channels: not a plain text-to-image model"
        )
    if network.config.caption_channels not in (None, parts.text_encoder.config.d_model):
        raise EngineStartError("the transformer was trained with another text encoder than the one beside it")
