"""The tokenizer and the small CLIP text encoder, pre-trained to read scenes out of captions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from training.loop import RUNS, Run
from training.optim import Optimisers
from training.scenes import ATTRIBUTE_VALUES, Caption, caption, sample_scene

MAX_TOKENS = 40
WIDTH = 192
_VOCABULARY = 700
_BOS, _EOS = "<|startoftext|>", "<|endoftext|>"
_BATCH = 128

States = tuple[torch.Tensor, torch.Tensor | None]


def build_tokenizer(folder: Path, seed: int = 7, captions: int = 20_000) -> CLIPTokenizer:
    """Train a byte-pair tokenizer on captions and write it in CLIP's format to ``folder``.

    All 256 byte symbols, alone and at a word's end, are in the vocabulary, so any text tokenises.
    """
    rng = np.random.default_rng(seed)
    texts = [caption(sample_scene(rng), rng).text for _ in range(captions)]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token=_EOS))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=_VOCABULARY, end_of_word_suffix="</w>", initial_alphabet=alphabet)
    core.train_from_iterator(texts, trainer)
    learned = json.loads(core.to_str())["model"]
    return _write_clip_format(folder, alphabet, learned["merges"])


def _write_clip_format(folder: Path, alphabet: list[str], merges: list[list[str]]) -> CLIPTokenizer:
    folder.mkdir(parents=True, exist_ok=True)
    words = alphabet + [f"{symbol}</w>" for symbol in alphabet]
    words += ["".join(pair) for pair in merges]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys([*words, _BOS, _EOS]))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=MAX_TOKENS)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained three-layer text encoder, 192 wide, for this tokenizer."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=3,
        num_attention_heads=6,
        max_position_embeddings=MAX_TOKENS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        hidden_act="gelu_pytorch_tanh",
        attn_implementation="eager",
    )
    return CLIPTextModel(config)


def tokenise(tokenizer: CLIPTokenizer, texts: list[str], padding: str = "max_length") -> torch.Tensor:
    """Token ids [B, 40], padded as the Stable Diffusion pipeline pads them (or to the longest)."""
    batch = tokenizer(texts, padding=padding, max_length=MAX_TOKENS, truncation=True, return_tensors="pt")
    ids: torch.Tensor = batch.input_ids
    return ids


class CaptionReader(nn.Module):
    """One learned query per attribute attends to the token states and names the value."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(len(ATTRIBUTE_VALUES), WIDTH) * 0.05)
        self.attention = nn.MultiheadAttention(WIDTH, 6, batch_first=True)
        self.heads = nn.ModuleList(nn.Linear(WIDTH, len(v)) for v in ATTRIBUTE_VALUES.values())

    def forward(self, states: torch.Tensor, padding: torch.Tensor | None = None) -> list[torch.Tensor]:
        """Logits per attribute, each [B, values], from states [B, T, 192]; ``padding`` is True where to skip."""
        queries = self.queries.expand(len(states), -1, -1)
        found = queries + self.attention(queries, states, states, key_padding_mask=padding, need_weights=False)[0]
        return [head(found[:, k]) for k, head in enumerate(self.heads)]


def mentioned_labels(captions: list[Caption]) -> torch.Tensor:
    """Value indices [B, attributes]; -100 where a caption does not pin the attribute down."""
    rows = []
    for one in captions:
        facts = one.scene.attributes()
        rows.append(
            [
                values.index(facts[name]) if name in one.mentioned else -100
                for name, values in ATTRIBUTE_VALUES.items()
            ]
        )
    return torch.tensor(rows)


def pretrain(run: Run, encoder: nn.Module, read: Callable[[list[str]], States], seed: int) -> None:
    """Teach an encoder to tell a caption's attributes, until the run's budget is spent.

    Args:
        run: the stage; resumes from its checkpoint.
        encoder: what ``read`` runs.
        read: token states [B, T, 192] of captions, and True where there is only padding (None = attend to all).
        seed: of the captions.
    """
    reader = CaptionReader()
    both = nn.ModuleDict({"encoder": encoder, "reader": reader})
    optimisers = Optimisers(both, 0.01, 1e-3, adam_only=("embed", "shared", "relative", "heads", "queries"))
    if (state := run.restore()) is not None:
        both.load_state_dict(state["model"])
        optimisers.load_state_dict(state["optimisers"])
    rng = np.random.default_rng([seed, run.step])
    for step in run.steps():
        captions = [caption(sample_scene(rng), rng) for _ in range(_BATCH)]
        labels = mentioned_labels(captions)
        with torch.autocast("cpu", torch.bfloat16):
            logits = reader(*read([c.text for c in captions]))
        losses = [F.cross_entropy(one.float(), labels[:, k], reduction="sum") for k, one in enumerate(logits)]
        loss = torch.stack(losses).sum() / (labels >= 0).sum()
        torch.autograd.backward(loss)
        optimisers.step(run.rate())
        if step % 20 == 0:
            right = sum(int((x.argmax(-1) == labels[:, k]).sum()) for k, x in enumerate(logits))
            run.log(loss=round(loss.item(), 4), accuracy=round(right / int((labels >= 0).sum()), 4))
    run.save(model=both.state_dict(), optimisers=optimisers.state_dict())


def pretrained(name: str, encoder: nn.Module) -> None:
    """Put the weights that stage ``name`` left into ``encoder``."""
    both = nn.ModuleDict({"encoder": encoder, "reader": CaptionReader()})
    both.load_state_dict(torch.load(RUNS / f"{name}.pt", weights_only=True)["model"])


def train_text(minutes: float, seed: int = 11) -> None:
    """Build the tokenizer and pre-train the text encoder; resumes from ``runs/text.pt``."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer(RUNS / "tokenizer")
    encoder = new_text_encoder(tokenizer)

    def read(texts: list[str]) -> States:
        return encoder(tokenise(tokenizer, texts, "longest")).last_hidden_state, None

    pretrain(Run("text", minutes), encoder, read, seed)


def load_text() -> tuple[CLIPTokenizer, CLIPTextModel]:
    """The tokenizer and pre-trained text encoder of ``runs/``."""
    tokenizer = CLIPTokenizer.from_pretrained(str(RUNS / "tokenizer"))
    encoder = new_text_encoder(tokenizer)
    pretrained("text", encoder)
    return tokenizer, encoder.eval()
