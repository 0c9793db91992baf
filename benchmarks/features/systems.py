"""What is compared: a way to run a picture, and the lists of them."""

from collections.abc import Iterator
from dataclasses import dataclass

from policies.features.backends import BACKENDS
from policies.features.choice import Architecture, FeatureChoice
from policies.features.methods import METHODS

FULL, REFERENCE = 50, "ddim"
STRENGTHS = (0.25, 0.5, 0.75, 1.0)
FEWER = {"dpmpp_2m": (5, 6, 8, 10, 12, 16, 20, 25), "ddim": (10, 16, 25, 35)}
ENTRIES = (5, 15, 25)
"""K of the resumed runs of 50 steps."""
# Same rule and site as another name of the list.
SAME = {"unet": {"interval"}, "transformer": set()}


@dataclass(frozen=True, slots=True)
class System:
    """A way to run a picture.

    Attributes:
        steps: N.
        solver: name of the engine's solver.
        features: what is reused inside the network; None = nothing.
        entry: K; 0 = from pure noise.
    """

    steps: int = FULL
    solver: str = REFERENCE
    features: FeatureChoice | None = None
    entry: int = 0

    @property
    def name(self) -> str:
        """Unique, for reports."""
        run = f"{self.solver} {self.steps}" + (f" from {self.entry}" if self.entry else "")
        chosen = self.features
        if chosen is None:
            return run
        warmup = f", warm-up {chosen.resume_warmup}" if chosen.resume_warmup else ""
        return f"{run}, {chosen.policy} {chosen.strength:g}{warmup}"

    @property
    def plain(self) -> "System":
        """The same without feature caching: what its pictures are compared with."""
        return System(self.steps, self.solver, None, self.entry)


def every_method(architecture: Architecture) -> Iterator[System]:
    """Every method at every strength over 50 steps."""
    for name, method in METHODS.items():
        if architecture in method.architectures and name not in SAME[architecture]:
            yield from (System(features=FeatureChoice(name, strength)) for strength in STRENGTHS)
    for pair in stacks(architecture):
        yield from (System(features=FeatureChoice(pair, strength)) for strength in STRENGTHS)


def stacks(architecture: Architecture) -> tuple[str, ...]:
    """Combinations of methods on different sites."""
    inner = "deepcache" if architecture == "unet" else "taylorseer"
    return (f"cfg-cache+{inner}",)


def fewer_steps() -> Iterator[System]:
    """The baseline every method has to beat: fewer steps, with either solver."""
    for solver, counts in FEWER.items():
        yield from (System(steps, solver) for steps in counts)


def resumed(architecture: Architecture) -> Iterator[System]:
    """Runs of 50 steps that enter at K, with and without feature caching and its warm-up."""
    names = ("deepcache", "taylorseer") if architecture == "unet" else ("first-block-cache", "taylorseer")
    policies = (*names, "cfg-cache", "taylor-output", *stacks(architecture))
    for entry in ENTRIES:
        yield System(entry=entry)
        for policy in policies:
            for warmup in (0, 2):
                yield System(features=FeatureChoice(policy, 0.5, warmup), entry=entry)


def default_runs(architecture: Architecture, star: int) -> Iterator[System]:
    """What requests that name nothing run with, N* steps, and gentle feature caching of them: for `auto`."""
    for policy in _gentle(architecture):
        for strength in (0.25, 0.5):
            yield System(star, "dpmpp_2m", FeatureChoice(policy, strength))


def libraries(architecture: Architecture) -> Iterator[System]:
    """What other libraries offer, each request alone as they must, beside our own of the same name."""
    policies = [name for name, backend in BACKENDS.items() if architecture in backend.architectures]
    ours = [name.partition(":")[2] for name in policies]
    for policy in dict.fromkeys((*ours, *policies)):
        if ":" in policy or policy in METHODS:
            for strength in (0.5, 1.0):
                yield System(20, "dpmpp_2m", FeatureChoice(policy, strength))


def _gentle(architecture: Architecture) -> tuple[str, ...]:
    inner = "deepcache" if architecture == "unet" else "taylorseer"
    return ("cfg-cache", inner, "taylor-output", *stacks(architecture))


def short_runs(architecture: Architecture, star: int, entry: int) -> Iterator[System]:
    """Around N*: fewer steps, a head start, feature caching, and all of them together.

    Args:
        architecture: of the denoiser.
        star: N*.
        entry: K of a resumed run of N* steps.
    """
    for steps in sorted({star, star + 2, star + 4, 16}):
        for start in (0, max(1, round(steps * entry / star))):
            yield System(steps, "dpmpp_2m", None, start)
            for policy in _gentle(architecture):
                for strength in (0.25, 0.5):
                    yield System(steps, "dpmpp_2m", FeatureChoice(policy, strength), start)
