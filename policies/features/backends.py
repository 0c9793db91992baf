"""Feature caching of other libraries by name: "diffusers:..." and "cache-dit:...", for one request at a time.

They decide for a whole batch at once and keep their memory inside the model, so a job that asks for one runs alone.
They are here for models our own methods do not know, and as baselines.
"""

from dataclasses import dataclass

from policies.features.base import RecipeError
from policies.features.choice import Architecture
from policies.features.strength import Knob

_BOTH: tuple[Architecture, ...] = ("unet", "transformer")
_TRANSFORMER: tuple[Architecture, ...] = ("transformer",)
_THRESHOLD = Knob("threshold", (0.05, 0.08, 0.12, 0.2), "geometric")
_WARMUP = Knob("warmup", (8, 6, 4, 4))


@dataclass(frozen=True, slots=True)
class Backend:
    """One method of another library. The knobs are those of our own method of that name.

    Attributes:
        name: what requests call it, "library:method".
        architectures: of denoisers it runs on.
        knobs: its parameters, as in `methods.Method`.
        calibrated: whether it needs the artefact of our own method of that name.
        stacks: tensors it remembers as large as the hidden states, for each row.
        parts: of each attention and feed-forward, likewise.
        per_step: it counts evaluations as steps, and is lost with solvers that take several for one.
    """

    name: str
    architectures: tuple[Architecture, ...]
    knobs: tuple[Knob, ...]
    stacks: int = 0
    parts: int = 0
    calibrated: bool = False
    per_step: bool = False

    @property
    def library(self) -> str:
        """The library it is of."""
        return self.name.partition(":")[0]

    def values(self, strength: float) -> dict[str, float]:
        """Return its parameters at a strength."""
        return {knob.name: knob.at(strength) for knob in self.knobs}


BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend("diffusers:first-block-cache", _TRANSFORMER, (_THRESHOLD,), stacks=4),
        Backend(
            "diffusers:magcache", _TRANSFORMER,
            (Knob("threshold", (0.03, 0.06, 0.12, 0.24), "geometric"), Knob("max_skips", (2, 3, 4, 5))),
            stacks=3, calibrated=True, per_step=True,
        ),
        Backend("diffusers:pab", _BOTH, (Knob("every", (2, 2, 3, 4)), Knob("cross_every", (3, 4, 6, 8))), parts=1),
        Backend(
            "diffusers:fastercache", _TRANSFORMER,
            (Knob("attention_every", (2, 2, 2, 3)), Knob("every", (2, 3, 5, 7))), parts=2,
        ),
        Backend("diffusers:taylorseer", _BOTH, (Knob("every", (2, 3, 4, 6)),), parts=3),
        Backend("diffusers:taylorseer-lite", _TRANSFORMER, (Knob("every", (2, 3, 4, 6)),)),
        Backend("cache-dit:dbcache", _TRANSFORMER, (_THRESHOLD, _WARMUP), stacks=8),
        Backend("cache-dit:taylorseer", _TRANSFORMER, (_THRESHOLD, _WARMUP), stacks=12),
    )
}  # fmt: skip


def find_backend(policy: str, architecture: Architecture | None = None) -> Backend:
    """Return the backend of a name.

    Args:
        policy: a name with a colon.
        architecture: of the denoiser; None = any.

    Raises:
        RecipeError: an unknown name, one among several, or one for other architectures.
    """
    name = policy.strip()
    if "+" in name:
        raise RecipeError(f"feature cache policies of other libraries do not stack: {name!r}")
    if name not in BACKENDS:
        raise RecipeError(f"unknown feature cache policy {name!r}; known: {', '.join(sorted(BACKENDS))}")
    backend = BACKENDS[name]
    if architecture is not None and architecture not in backend.architectures:
        needed = " or ".join(backend.architectures)
        raise RecipeError(f"feature cache policy {name!r} runs on a {needed}, not on a {architecture}")
    return backend
