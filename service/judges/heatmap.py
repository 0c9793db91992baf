"""Where a convolutional network looks: Smooth Grad-CAM++ (Omeiza et al. 2019, arXiv 1908.01224), from its formulas.

With S the explained number, A^k the clean picture's feature maps, x_m = x + N(0, sigma^2) for m = 1 … n, g_m the
gradient of S at x_m by A^k, and bars for means over m of Y_m g_m^p (p = 1, 2, 3):

    alpha^k_ij = numerator / (2 bar(Y g^2) + (sum_ab A^k_ab) bar(Y g^3))
    w^k        = sum_ij alpha^k_ij ReLU(bar(Y g))
    map        = ReLU(sum_k w^k A^k), stretched to the picture's size and to [0, 1]

Grad-CAM++ (Chattopadhyay et al. 2018, arXiv 1710.11063) is the case n = 1, sigma = 0. Its second and third
derivatives of exp(S) are exp(S) g^2 and exp(S) g^3 where S is piecewise linear in A.

Its weights are never negative, so where features are not negative either, maps may hardly depend on what is asked.
Check on the network at hand with randomised weights (Adebayo et al. 2018) before you read anything into them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

Heatmap = NDArray[np.float32]
Target = Callable[[Any], Tensor]
"""From a network's output for B pictures to the numbers to explain, [B]."""
Form = Literal["corrected", "printed"]


class HeatmapError(ValueError):
    """No map can be made; the message is one clear line."""


@runtime_checkable
class Explainer(Protocol):
    """A judge that can show where it looks."""

    def match_map(self, picture: NDArray[np.uint8], prompt: str) -> Heatmap:
        """Return which part of a picture that a run was resumed from speaks for the run's prompt.

        Args:
            picture: RGB [H, W, 3].
            prompt: the new one.

        Returns:
            A map [H, W] in [0, 1].

        Raises:
            HeatmapError: it cannot read the prompt, or the picture has the wrong size.
        """

    def answer_map(self, picture: NDArray[np.uint8], prompt: str) -> Heatmap:
        """Return where a picture shows the things that its own prompt asks for; otherwise as `match_map`."""


@dataclass(frozen=True, slots=True)
class Smoothing:
    """The free choices of Smooth Grad-CAM++.

    Attributes:
        samples: n, noisy inputs.
        sigma: of the noise, in units of the network's input.
        form: numerator of alpha. "printed": bar(Y g), as in the paper. "corrected": bar(Y g^2), which is Grad-CAM++'s
            when there is no noise.
        exponential: Y = exp(S) weighs the samples, as the formulas say; else Y = 1, as implementations have it.
        seed: of the noise.
    """

    samples: int = 8
    sigma: float = 0.1
    form: Form = "corrected"
    exponential: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.samples < 1 or not 0 <= self.sigma < float("inf"):
            raise HeatmapError(f"samples >= 1 and sigma >= 0, not {self.samples} and {self.sigma}")


PLUS_PLUS = Smoothing(samples=1, sigma=0.0)
"""Grad-CAM++."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One layer's part in a forward and backward pass.

    Attributes:
        maps: A, [B, K, h, w].
        gradients: of S by A, same shape.
        scores: S, [B].
    """

    maps: Tensor
    gradients: Tensor
    scores: Tensor


def smooth_grad_cam_pp(
    network: nn.Module, layer: nn.Module, picture: Tensor, target: Target, smoothing: Smoothing | None = None
) -> Heatmap:
    """Return the Smooth Grad-CAM++ map of one picture.

    Args:
        network: evaluated as in `eval()`; left in the mode it was in.
        layer: of the network, with an output [B, K, h, w]; called once per forward.
        picture: the network's input, float [C, H, W].
        target: what to explain; rows of the network's output must not depend on each other.
        smoothing: None = the defaults.

    Returns:
        [H, W] in [0, 1]; zero everywhere where nothing speaks for the target.

    Raises:
        HeatmapError: layer, picture or target do not fit.
    """
    chosen = smoothing or Smoothing()
    maps = look(network, layer, picture[None], target).maps[0]
    noisy = look(network, layer, _with_noise(picture, chosen), target)
    return combined(maps, smooth_weights(maps, noisy, chosen), tuple(picture.shape[-2:]))


def grad_cam(network: nn.Module, layer: nn.Module, picture: Tensor, target: Target) -> Heatmap:
    """Return the Grad-CAM map (Selvaraju et al. 2017, arXiv 1610.02391); as `smooth_grad_cam_pp`."""
    seen = look(network, layer, picture[None], target)
    weights = seen.gradients[0].mean(dim=(-2, -1))
    return combined(seen.maps[0], weights, tuple(picture.shape[-2:]))


def hires_cam(network: nn.Module, layer: nn.Module, picture: Tensor, target: Target) -> Heatmap:
    """Return the HiResCAM map (Draelos & Carin 2020, arXiv 2011.08891): ReLU(sum_k g^k A^k), place by place.

    Unlike the others it does not average gradients over places, so it stays true to networks whose head weighs
    each place on its own. As `smooth_grad_cam_pp`.
    """
    seen = look(network, layer, picture[None], target)
    return stretched((seen.gradients[0] * seen.maps[0]).sum(dim=0), tuple(picture.shape[-2:]))


def look(network: nn.Module, layer: nn.Module, pictures: Tensor, target: Target) -> Seen:
    """Run pictures [B, C, H, W] forward and back, and return what happened at `layer`."""
    if pictures.ndim != 4 or not pictures.is_floating_point():
        raise HeatmapError(f"a picture must be floating [C, H, W], not {pictures.dtype} {list(pictures.shape[1:])}")
    if all(layer is not part for part in network.modules()):
        raise HeatmapError("the layer is not part of the network")
    kept: list[Tensor] = []

    def keep(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept.append(output)
        # A copy goes on: what follows may work in place.
        return output.clone()

    training, handle = network.training, layer.register_forward_hook(keep)
    try:
        network.eval()
        with torch.inference_mode(False), torch.enable_grad():
            scores = target(network(pictures.clone().requires_grad_()))
            maps = _only(kept, len(pictures))
            if scores.shape != pictures.shape[:1]:
                raise HeatmapError(f"the target must give one number per picture, not {list(scores.shape)}")
            (gradients,) = torch.autograd.grad(scores.sum(), maps, allow_unused=True)
    finally:
        handle.remove()
        network.train(training)
    if gradients is None:
        raise HeatmapError("the target does not depend on the layer")
    return Seen(maps.detach(), gradients, scores.detach())


def smooth_weights(maps: Tensor, noisy: Seen, smoothing: Smoothing) -> Tensor:
    """Return w^k, [K], of the clean picture's maps [K, h, w] and the noisy pictures' gradients."""
    # exp(S - max S) instead of exp(S): a common factor cancels in alpha and in the stretched map.
    factors = (noisy.scores - noisy.scores.max()).exp() if smoothing.exponential else torch.ones_like(noisy.scores)
    # Third powers of small gradients leave single precision. Not rescaled instead: alpha depends on the scale of S.
    gradients = noisy.gradients.double()
    first, second, third = ((factors.view(-1, 1, 1, 1) * gradients**power).mean(dim=0) for power in (1, 2, 3))
    denominator = 2 * second + maps.double().sum(dim=(-2, -1), keepdim=True) * third
    numerator = second if smoothing.form == "corrected" else first
    defined = denominator != 0
    alpha = torch.where(defined, numerator / denominator.where(defined, torch.ones_like(denominator)), 0.0)
    return (alpha * first.relu()).sum(dim=(-2, -1))


def combined(maps: Tensor, weights: Tensor, size: tuple[int, ...]) -> Heatmap:
    """Return ReLU(sum_k w^k A^k) of maps [K, h, w] and weights [K], stretched."""
    return stretched((weights.view(-1, 1, 1) * maps).sum(dim=0), size)


def stretched(raw: Tensor, size: tuple[int, ...]) -> Heatmap:
    """Return ReLU of a raw map [h, w] at the picture's size, in [0, 1]."""
    positive = raw.double().relu()[None, None]
    large = F.interpolate(positive, size=size, mode="bilinear", align_corners=False)[0, 0]
    low, high = large.min(), large.max()
    scaled = (large - low) / (high - low) if high > low else torch.zeros_like(large)
    made: Heatmap = scaled.float().cpu().numpy()
    return made


def _with_noise(picture: Tensor, smoothing: Smoothing) -> Tensor:
    generator = torch.Generator().manual_seed(smoothing.seed)
    noise = torch.randn((smoothing.samples, *picture.shape), generator=generator).to(picture)
    return picture + smoothing.sigma * noise


def _only(kept: list[Tensor], count: int) -> Tensor:
    if len(kept) != 1:
        raise HeatmapError(f"the layer must be called once per forward, not {len(kept)} times")
    if kept[0].ndim != 4 or len(kept[0]) != count:
        raise HeatmapError(f"the layer must give maps [B, K, h, w], not {list(kept[0].shape)}")
    return kept[0]
