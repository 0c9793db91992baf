"""LoRAs inside a loaded diffusers pipeline: loaded when first named, switched between forwards, few kept."""

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import safetensors.torch
import torch
from diffusers.loaders.lora_base import LoraBaseMixin
from diffusers.loaders.lora_pipeline import StableDiffusionXLLoraLoaderMixin
from diffusers.utils import delete_adapter_layers, set_adapter_layers, set_weights_and_activate_adapters
from torch import nn

from service.engine.base import Condition, Lora
from service.engine.lora import UNFIT, LoraError, LoraShelf
from service.engine.lora_fit import Shape, Weights, check_fit, part_of

DENOISERS = ("unet", "transformer")
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
# Of a file's own description only what decides a plain LoRA's strength; the rest would choose code paths.
DESCRIBED = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora")


class Adapters:
    """The LoRAs of one pipeline. Without any in use the networks compute what they did before the first was loaded.

    Args:
        parts: diffusers' own pipeline, loaded, with no LoRA in it.
        shelf: where the files lie.
        taken: whether the model may be given any; not if its weights are quantised.

    Attributes:
        supported: whether diffusers can put LoRAs into this family, and may.
    """

    def __init__(self, parts: Any, shelf: LoraShelf, *, taken: bool = True) -> None:
        self.supported = taken and isinstance(parts, LoraBaseMixin)
        self._parts = parts
        self._shelf = shelf
        self._models: dict[str, nn.Module] = _models(parts) if self.supported else {}
        self._targets: dict[str, dict[str, Shape]] = {name: _targets(model) for name, model in self._models.items()}
        self._loaded: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._active: tuple[Lora, ...] = ()
        self._numbers = count()

    @property
    def loaded(self) -> list[str]:
        """Names of the loaded LoRAs, least recently used first."""
        return [name for name, _ in self._loaded]

    def use(self, loras: tuple[Lora, ...]) -> None:
        """Have the networks compute with exactly these LoRAs; cheap when they already do.

        Raises:
            LoraError: one cannot be used; then none is.
        """
        if loras == self._active:
            return
        # Parameters made in inference mode could never be switched outside of it.
        with torch.inference_mode(False):
            self._activate(())
            for lora in loras:
                self._need(lora, loras)
            self._activate(loras)

    def encoder(self, encode: Callable[[str], Condition]) -> Callable[[str, tuple[Lora, ...]], Condition]:
        """Return `encode` as a function of the LoRA set too: the text encoders may hold a part of it."""

        def encode_with(prompt: str, loras: tuple[Lora, ...]) -> Condition:
            self.use(loras)
            return encode(prompt)

        return encode_with

    def _activate(self, loras: tuple[Lora, ...]) -> None:
        names = [self._loaded[lora.name, lora.digest] for lora in loras]
        for model in self._models.values():
            # A part without any of them ends up with no active one; those it has not are passed over.
            set_weights_and_activate_adapters(model, names, [lora.scale for lora in loras])
            set_adapter_layers(model, enabled=bool(names))
        self._active = loras

    def _need(self, lora: Lora, wanted: tuple[Lora, ...]) -> None:
        key = (lora.name, lora.digest)
        if key not in self._loaded:
            if not self.supported:
                raise LoraError(UNFIT, "this model takes no LoRA")
            weights, description = self._read(lora)
            self._make_room({(other.name, other.digest) for other in wanted})
            self._loaded[key] = self._load(lora, weights, description)
        self._loaded.move_to_end(key)

    def _make_room(self, wanted: set[tuple[str, str]]) -> None:
        unwanted = [key for key in self._loaded if key not in wanted]
        for key in unwanted[: max(0, len(self._loaded) + 1 - self._shelf.limit)]:
            self._remove(self._loaded.pop(key))

    def _read(self, lora: Lora) -> tuple[Weights, Mapping[str, Any]]:
        content = self._shelf.read(lora)
        try:
            return safetensors.torch.load(content), _description(content)
        except (ValueError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise _unfit(lora, "it is not a safetensors file") from error

    def _load(self, lora: Lora, weights: Weights, description: Mapping[str, Any]) -> str:
        adapter = f"lora{next(self._numbers):08}"
        try:
            state, alphas = self._converted(weights)
            paths = check_fit(state, weights, self._targets)
            for part, targets in paths.items():
                self._insert(part, state, alphas, _config(description, part, targets), adapter)
            self._calm()
        except torch.AcceleratorError:
            raise
        except Exception as error:
            self._remove(adapter)
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                raise
            raise _unfit(lora, str(error) if isinstance(error, LoraError) else "it cannot be loaded") from error
        return adapter

    def _converted(self, weights: Weights) -> tuple[Weights, dict[str, float] | None]:
        """Return the weights under diffusers' names, whichever trainer wrote them, and their alphas, if any."""
        more = {}
        if isinstance(self._parts, StableDiffusionXLLoraLoaderMixin):
            more["unet_config"] = self._parts.unet.config
        found = self._parts.lora_state_dict(dict(weights), return_alphas=True, **more)
        return found if isinstance(found, tuple) else (found, None)

    def _insert(
        self, part: str, state: Weights, alphas: dict[str, float] | None, config: dict[str, Any] | None, adapter: str
    ) -> None:
        settings: dict[str, Any] = {
            "adapter_name": adapter,
            "network_alphas": alphas,
            "metadata": None if alphas else config,
            "low_cpu_mem_usage": True,
        }
        own = {f"{part}.{key}": tensor for key, tensor in part_of(state, part).items()}
        if part in DENOISERS:
            self._models[part].load_lora_adapter(own, prefix=part, **settings)  # type: ignore[operator]
        else:
            self._parts.load_lora_into_text_encoder(own, text_encoder=self._models[part], prefix=part, **settings)

    def _calm(self) -> None:
        # A new layer comes in training mode.
        for model in self._models.values():
            model.eval()

    def _remove(self, adapter: str) -> None:
        for model in self._models.values():
            set_weights_and_activate_adapters(model, [], [])
            delete_adapter_layers(model, adapter)
            # An injection that failed half-way leaves its settings behind.
            vars(model).get("peft_config", {}).pop(adapter, None)
            set_adapter_layers(model, enabled=False)


def _models(parts: Any) -> dict[str, nn.Module]:
    found = {name: parts.components.get(name) for name in (*DENOISERS, *TEXT_ENCODERS)}
    known = parts._lora_loadable_modules
    return {name: model for name, model in found.items() if name in known and model is not None}


def _targets(model: nn.Module) -> dict[str, Shape]:
    """Return the weight shapes of the layers a LoRA can change, by path. Taken once, before any is wrapped."""
    layers = {path: layer for path, layer in model.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)}
    return {path: tuple(layer.weight.shape) for path, layer in layers.items()}


def _description(content: bytes) -> Mapping[str, Any]:
    """Return what diffusers wrote into the file beside the weights, {} if nothing."""
    length = int.from_bytes(content[:8], "little")
    notes = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    found: Mapping[str, Any] = json.loads(notes.get("lora_adapter_metadata") or "{}")
    return dict(found.items())


def _config(description: Mapping[str, Any], part: str, targets: list[str]) -> dict[str, Any] | None:
    """Return what the file says of its strength in one part, as peft wants it; None if it says nothing."""
    said = {word: description[f"{part}.{word}"] for word in DESCRIBED if f"{part}.{word}" in description}
    return {f"{part}.{word}": value for word, value in {**said, "target_modules": targets}.items()} if said else None


def _unfit(lora: Lora, why: str) -> LoraError:
    return LoraError(UNFIT, f"LoRA {lora.name} does not fit this model: {why}")
