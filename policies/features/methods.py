"""STUB, to be replaced whole: the names of the methods and where they may run."""

from typing import Literal

from policies.features.base import RecipeError

Architecture = Literal["unet", "transformer"]

_UNET = ("unet",)
_TRANSFORMER = ("transformer",)
_BOTH = ("unet", "transformer")

METHODS: dict[str, tuple[str, tuple[str, ...]]] = {
    "deepcache": ("inner", _UNET),
    "deepcache-nonuniform": ("inner", _UNET),
    "deepcache-adaptive": ("inner", _UNET),
    "smoothcache": ("sub-layers", _TRANSFORMER),
    "teacache": ("inner", _BOTH),
    "magcache": ("inner", _TRANSFORMER),
    "first-block-cache": ("inner", _TRANSFORMER),
    "dbcache": ("inner", _TRANSFORMER),
    "seacache": ("inner", _TRANSFORMER),
    "adacache": ("inner", _TRANSFORMER),
    "taylorseer": ("inner", _TRANSFORMER),
    "ab-cache": ("inner", _BOTH),
    "taylor-output": ("output", _BOTH),
    "pab": ("sub-layers", _TRANSFORMER),
    "cfg-cache": ("guidance", _BOTH),
    "fastercache": ("guidance", _BOTH),
    "cachequant": ("inner", _BOTH),
    "step-mask": ("inner", _BOTH),
    "interval": ("inner", _BOTH),
    "output-interval": ("output", _BOTH),
}
"""Site and architectures, by name."""


def check_choice(policy: str, architecture: Architecture) -> None:
    """Check that a policy, or several joined by "+", can run on an architecture.

    Raises:
        RecipeError: an unknown name, one for another architecture, or two on one site.
    """
    names = policy.split("+")
    for name in names:
        if name not in METHODS:
            raise RecipeError(f"there is no feature cache policy {name!r}")
        if architecture not in METHODS[name][1]:
            raise RecipeError(f"{name} does not run on a {architecture}")
    sites = [METHODS[name][0] for name in names]
    if len(set(sites)) < len(sites):
        raise RecipeError("two feature cache policies cannot share one site")
