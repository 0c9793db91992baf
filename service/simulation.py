"""`headstart simulate`: the simulator with the service's own embedder."""

from collections.abc import Callable, Mapping
from typing import Any

from service.embedder import Embedder, EmbedderError


def simulate_log(given: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """Run a simulation with the options of the command line.

    Raises:
        ValueError: an option, the log or the environment cannot be used; one line.
    """
    try:
        from loadtest.prompt_log import PromptLogError
        from loadtest.simulator.command import Options, run_simulation
        from loadtest.simulator.matching import MatchingError
        from loadtest.simulator.setup import SetupError
    except ModuleNotFoundError as error:
        raise ValueError(f"{error.name} is missing: pip install 'headstart[simulate]'") from None
    levels = _levels(given["levels"])
    try:
        embedder = Embedder()
        run_simulation(Options(**{**given, "levels": levels}), embedder.embed_many, embedder.digest, say)
    except (PromptLogError, MatchingError, SetupError, EmbedderError, OSError) as error:
        raise ValueError(str(error)) from None


def _levels(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"levels are numbers separated by commas, not {text!r}") from None
