"""How much of a denoiser was run, where another library decides what to leave out."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from diffusers.models.attention import AttentionModuleMixin
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from service.engine.features.profile import KERNELS
from service.engine.quantise import QuantisedLayer

ATTENTION = (Attention, AttentionModuleMixin)
LAYERS = (nn.Linear, nn.Conv2d, QuantisedLayer)


@dataclass
class Costs:
    """Floating-point operations of one row, at one size of picture.

    Attributes:
        whole: of the denoiser.
        units: of each part that is counted on its own, by name.
    """

    whole: float = 0.0
    units: dict[str, float] = field(default_factory=dict)


class Meter:
    """Counts the operations of a denoiser's forward, by attention modules and by the layers outside of them.

    Must be put on before whatever replaces the forwards of modules, so that a part that is left out is not counted.

    Args:
        denoiser: its modules' forwards are wrapped.
    """

    def __init__(self, denoiser: nn.Module) -> None:
        self._costs = Costs()
        self._spent = 0.0
        self._probe: FlopCounterMode | None = None
        self.units: list[str] = []
        inside = ""
        for name, module in denoiser.named_modules():
            if inside and name.startswith(inside):
                continue
            if isinstance(module, ATTENTION):
                inside = name + "."
            if isinstance(module, ATTENTION + LAYERS):
                self.units.append(name)
                vars(module)["forward"] = self._counted(name, module.forward)

    def run(self, call: Callable[[], Tensor], rows: int, costs: Costs | None) -> tuple[Tensor, Costs, float]:
        """Run a forward.

        Args:
            call: runs it.
            rows: of the batch.
            costs: as measured before; None = measure them now, in a forward that leaves nothing out.

        Returns:
            What it returns, the costs, and the operations of all rows.
        """
        self._spent = 0.0
        if costs is None:
            self._costs = Costs()
            with FlopCounterMode(display=False, custom_mapping=KERNELS) as self._probe:
                output = call()
            self._costs.whole, self._probe = self._probe.get_total_flops() / rows, None
            return output, self._costs, rows * self._costs.whole
        self._costs = costs
        output = call()
        # What lies outside of all units is small, and run in any case.
        return output, costs, self._spent + rows * (costs.whole - sum(costs.units.values()))

    def _counted(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(forward)
        def counted(*args: Any, **kwargs: Any) -> Any:
            rows = next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor))
            if self._probe is None:
                self._spent += rows * self._costs.units.get(name, 0.0)
                return forward(*args, **kwargs)
            before = self._probe.get_total_flops()
            made = forward(*args, **kwargs)
            cost = (self._probe.get_total_flops() - before) / rows
            # A module that is called more than once costs the mean of its calls.
            self._costs.units[name] = self._costs.units.get(name, 0.0) + cost
            return made

        return counted


def tensor_bytes(root: object) -> int:
    """Return the bytes of all tensors an object holds, however deep; modules are passed over."""
    found: dict[int, int] = {}
    seen: set[int] = set()
    pending = [root]
    while pending:
        item = pending.pop()
        if id(item) in seen or isinstance(item, nn.Module | torch.dtype | type) or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, Tensor):
            found[item.untyped_storage().data_ptr()] = item.nbytes
        elif isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list | tuple | set):
            pending += item
        elif hasattr(item, "__dict__"):
            pending += vars(item).values()
    return sum(found.values())
