"""Whether a LoRA fits a model, judged before anything is touched.

diffusers passes over what it does not know, and widens or overwrites base weights for some files. Here a file fits
whole or not at all, so that it can neither draw half of what it was trained for nor change pictures without it.
"""

import re
from collections import defaultdict
from collections.abc import Mapping

from diffusers.utils import (
    convert_state_dict_to_diffusers,
    convert_state_dict_to_peft,
    convert_unet_state_dict_to_peft,
)
from torch import Tensor

from service.engine.lora import UNFIT, LoraError

Weights = dict[str, Tensor]
Shape = tuple[int, ...]

KEY = re.compile(r"(.+)\.lora_([AB])\.weight")


def check_fit(state: Weights, raw: Weights, targets: Mapping[str, Mapping[str, Shape]]) -> dict[str, list[str]]:
    """Check every weight of a LoRA against the layer it is for.

    Args:
        state: the weights under diffusers' names.
        raw: as the file has them.
        targets: weight shapes of the layers of each part, by part and path.

    Returns:
        The paths of the layers it changes, by part.

    Raises:
        LoraError: it is of another kind or for another model; the message says why.
    """
    if any("dora_scale" in key for key in raw):
        raise LoraError(UNFIT, "it is a DoRA")
    counts = {part: len(part_of(state, part)) for part in targets}
    if not state or sum(counts.values()) != len(state):
        raise LoraError(UNFIT, "it is no LoRA for a model of this family")
    return {part: _paths(part, part_of(state, part), targets[part]) for part, size in counts.items() if size}


def part_of(state: Weights, part: str) -> Weights:
    """Return the weights of one part, without its name before theirs."""
    return {key.removeprefix(f"{part}."): tensor for key, tensor in state.items() if key.startswith(f"{part}.")}


def _paths(part: str, state: Weights, targets: Mapping[str, Shape]) -> list[str]:
    pairs: dict[str, Weights] = defaultdict(dict)
    for key, tensor in _in_peft_names(part, state).items():
        match = KEY.fullmatch(key)
        if match is None:
            raise LoraError(UNFIT, "it holds more than a LoRA's two matrices per layer")
        pairs[_path(match[1], targets)][match[2]] = tensor
    for path, pair in pairs.items():
        if path not in targets or not _matches(pair, targets[path]):
            raise LoraError(UNFIT, "it was made for other layers")
    return list(pairs)


def _in_peft_names(part: str, state: Weights) -> Weights:
    if part.startswith("text_encoder"):
        return dict(convert_state_dict_to_peft(convert_state_dict_to_diffusers(state)))
    return state if "lora_A" in next(iter(state)) else dict(convert_unet_state_dict_to_peft(state))


def _path(path: str, targets: Mapping[str, Shape]) -> str:
    # Newer transformers have no such level in their CLIP; diffusers leaves it out likewise.
    flat = path.removeprefix("text_model.")
    return flat if path not in targets and flat in targets else path


def _matches(pair: Weights, target: Shape) -> bool:
    """Tell whether B A has the shape of the layer's weight [out, in, …]."""
    if pair.keys() != {"A", "B"}:
        return False
    down, up = tuple(pair["A"].shape), tuple(pair["B"].shape)
    rank = down[0] if down else 0
    return down[1:] == target[1:] and up == (target[0], rank, *(1 for _ in target[2:])) and rank > 0
