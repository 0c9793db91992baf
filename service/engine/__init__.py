"""The engine: joint batches of jobs at different steps."""

from service.engine.base import Engine
from service.engine.config import EngineConfig

__all__ = ["EngineConfig", "make_engine"]


def make_engine(config: EngineConfig) -> Engine:
    """Make the engine `config.kind` names; `start` loads the model.

    Args:
        config: what to run and where.

    Raises:
        ValueError: `config.kind` is neither "process" nor "local".
    """
    # Imported late, so that naming the contracts does not load an engine.
    if config.kind == "process":
        from service.engine.process import ProcessEngine

        return ProcessEngine(config)
    if config.kind == "local":
        from service.engine.local import LocalEngine

        return LocalEngine(config)
    raise ValueError(f"unknown engine kind {config.kind!r}; one of process, local")
