"""The tokenizer and the small T5 encoder of the diffusion transformer, pre-trained as ``training.text`` is."""

from __future__ import annotations

import math
import re
from collections import Counter

import numpy as np
import torch
from torch import nn
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from training.loop import RUNS, Run
from training.scenes import caption, sample_scene
from training.text import MAX_TOKENS, WIDTH, States, pretrain, pretrained

_RARE = -20.0  # log probability of a single character: words win wherever they fit
_WORD = re.compile(r"[a-z]+")
_SPECIAL = ("<pad>", "</s>", "<unk>")
_FOLDER = RUNS / "t5-tokenizer"


def build_t5_tokenizer(seed: int = 8, captions: int = 20_000) -> T5Tokenizer:
    """A unigram tokenizer (Kudo, 2018) with a piece per word of the captions and per printable character.

    Written in T5's format to ``runs/t5-tokenizer``. Words the captions do not have are spelled.
    """
    rng = np.random.default_rng(seed)
    texts = [caption(sample_scene(rng), rng).text.lower() for _ in range(captions)]
    counts = Counter(word for text in texts for word in _WORD.findall(text))
    total = counts.total()
    words = [(f"▁{word}", math.log(count / total)) for word, count in sorted(counts.items())]
    characters = [(chr(code), _RARE) for code in range(33, 127)]
    vocab = [*((piece, 0.0) for piece in _SPECIAL), ("▁", _RARE), *characters, *words]
    tokenizer = T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(str(_FOLDER))
    return tokenizer


def new_t5(tokenizer: T5Tokenizer) -> T5EncoderModel:
    """An untrained three-layer T5 encoder, 192 wide, for this tokenizer.

    T5 knows word order from learned biases alone. They start large, so that every head looks at other distances from
    the first step on; from T5's own start near zero the encoder stays a bag of words for thousands of steps.
    """
    encoder = T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=WIDTH,
            d_kv=32,
            d_ff=3 * WIDTH,
            num_layers=3,
            num_heads=6,
            relative_attention_num_buckets=32,
            relative_attention_max_distance=40,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            is_encoder_decoder=False,
        )
    )
    first = encoder.encoder.block[0].layer[0].SelfAttention
    nn.init.normal_(first.relative_attention_bias.weight, std=2.0)
    return encoder


def encode_texts(
    tokenizer: T5Tokenizer, encoder: T5EncoderModel, texts: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token states [B, T, 192], T = the longest caption's tokens, and their mask [B, T] (1 = text)."""
    lowered = [text.lower().strip() for text in texts]
    tokens = tokenizer(lowered, padding=True, max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    return encoder(**tokens).last_hidden_state, tokens.attention_mask


def train_t5(minutes: float, seed: int = 12) -> None:
    """Build the tokenizer and pre-train the encoder; resumes from ``runs/t5.pt``."""
    torch.manual_seed(seed)
    tokenizer = build_t5_tokenizer()
    encoder = new_t5(tokenizer)

    def read(texts: list[str]) -> States:
        states, mask = encode_texts(tokenizer, encoder, texts)
        return states, mask == 0

    pretrain(Run("t5", minutes), encoder, read, seed)


def load_t5() -> tuple[T5Tokenizer, T5EncoderModel]:
    """The tokenizer and pre-trained encoder of ``runs/``."""
    tokenizer = T5Tokenizer.from_pretrained(str(_FOLDER))
    encoder = new_t5(tokenizer)
    pretrained("t5", encoder)
    return tokenizer, encoder.eval()
