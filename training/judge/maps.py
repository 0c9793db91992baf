"""Where the scenes' judge looks: maps for a prompt ("training.judge.maps:scenes" is the judge that has them)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from service.judges.heatmap import Heatmap, HeatmapError, Target, hires_cam
from training.judge.by_text import TextJudge
from training.judge.by_text import scenes as judge_of_scenes
from training.judge.network import JudgeNetwork
from training.scenes.reading import read_caption
from training.scenes.spec import ATTRIBUTE_VALUES

_NAMES = tuple(ATTRIBUTE_VALUES)


class MappingJudge(TextJudge):
    """The scenes' judge, and where it looks (a `service.judges.heatmap.Explainer`).

    The maps are HiResCAM's: in `python -m benchmarks heatmaps` those of Smooth Grad-CAM++ do not depend on what is
    asked of this network.
    """

    def match_map(self, picture: NDArray[np.uint8], prompt: str) -> Heatmap:
        """Return what of a picture speaks for all that is asked, background and layout included.

        Args:
            picture: RGB [128, 128, 3].
            prompt: a scene's caption.

        Returns:
            A map [128, 128] in [0, 1].

        Raises:
            HeatmapError: the prompt is no scene's caption, or the picture has another size.
        """
        return self._map(picture, _asked(prompt))

    def answer_map(self, picture: NDArray[np.uint8], prompt: str) -> Heatmap:
        """Return whether the things asked for are in a picture, and where; otherwise as `match_map`."""
        named = _asked(prompt)
        things = {name: value for name, value in named.items() if "." in name}
        return self._map(picture, things or named)

    def _map(self, picture: NDArray[np.uint8], wanted: Mapping[str, str]) -> Heatmap:
        if picture.shape != (128, 128, 3) or picture.dtype != np.uint8:
            raise HeatmapError(f"pictures must be RGB of 128 pixels square, not {list(picture.shape)}")
        network = self._judge._network
        return hires_cam(network, explained_layer(network), as_input(picture), target_of(wanted))


def _asked(prompt: str) -> dict[str, str]:
    """The attributes a caption names, with the values it gives them."""
    caption = read_caption(prompt)
    if caption is None:
        raise HeatmapError("the prompt does not describe a scene this judge can read")
    wanted = caption.scene.attributes()
    return {name: wanted[name] for name in sorted(caption.mentioned)}


def scenes() -> MappingJudge:
    """Return the judge that ships with the scenes models."""
    plain = judge_of_scenes()
    mapping = MappingJudge(plain._judge, "")
    mapping.name = plain.name
    return mapping


def explained_layer(network: JudgeNetwork) -> nn.Module:
    """Return the layer that maps are made of: the last of 16x16 cells."""
    return network.body[5]


def as_input(picture: NDArray[np.uint8]) -> torch.Tensor:
    """Return a picture [H, W, 3] as the judge's network takes it, float32 [3, H, W] in [0, 1]."""
    # A copy: decoded pictures may not be written to, which torch objects to.
    return torch.from_numpy(picture.copy()).permute(2, 0, 1).float() / 255


def target_of(wanted: Mapping[str, str]) -> Target:
    """Return the number to explain: the mean log-odds the judge gives to attributes' values.

    Log-odds, log p - log(1 - p), rise and fall with the log-probability, but their gradient does not vanish where
    the judge is certain, which is where a match is to be explained.

    Args:
        wanted: attribute -> value, at least one.
    """
    places = [(_NAMES.index(name), ATTRIBUTE_VALUES[name].index(value)) for name, value in wanted.items()]
    if not places:
        raise HeatmapError("there is nothing to explain")

    def target(logits: list[torch.Tensor]) -> torch.Tensor:
        return torch.stack([_log_odds(logits[head], value) for head, value in places]).mean(dim=0)

    return target


def _log_odds(logits: torch.Tensor, value: int) -> torch.Tensor:
    others = [other for other in range(logits.shape[-1]) if other != value]
    return logits[:, value] - logits[:, others].logsumexp(dim=-1)
