"""LoRA files as trainers leave them, made with peft and diffusers' own writers."""

import hashlib
import shutil
from pathlib import Path

import torch
from diffusers.training_utils import _collate_lora_metadata
from engine_helpers import spec
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from service.engine.base import JobSpec, Lora
from service.engine.lora import LoraShelf

ATTENTION = ("to_q", "to_v", "to_out.0")
PROJECTIONS = ("q_proj", "fc1")


def write_lora(kind: type, model: Path, path: Path, *, seed: int = 0, described: bool = True, **ranks: int) -> Path:
    """Write a random LoRA for a tiny model.

    Args:
        kind: diffusers' pipeline class.
        model: the model's folder.
        path: of the file.
        seed: of the weights.
        described: with the strength (alpha = twice the rank) beside the weights, else strength 1.
        ranks: of each part.
    """
    pipe = kind.from_pretrained(model)
    parts = {name: getattr(pipe, name) for name in ranks}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for name, part in parts.items():
            targets = ATTENTION if name in ("unet", "transformer") else PROJECTIONS
            rank = ranks[name]
            part.add_adapter(
                LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(targets), init_lora_weights=False)
            )
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(part) for name, part in parts.items()}
    kind.save_lora_weights(path.parent / "saved", **layers, **(_collate_lora_metadata(parts) if described else {}))
    shutil.move(path.parent / "saved" / "pytorch_lora_weights.safetensors", path)
    return path


def lora(path: Path, scale: float = 1.0) -> Lora:
    return Lora(path.stem, hashlib.sha256(path.read_bytes()).hexdigest(), scale)


def shelf(folder: Path, **settings: int) -> LoraShelf:
    return LoraShelf(folder, **settings)


def job(*loras: Lora, name: str = "a", **changes: object) -> JobSpec:
    return spec(name, loras=tuple(sorted(loras)), **changes)
