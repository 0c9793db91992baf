"""Structured logs: one JSON object per line on stderr, never a prompt."""

import json
import logging
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
_bound: ContextVar[dict[str, str]] = ContextVar("headstart_log_fields")


@contextmanager
def bound(**fields: str) -> Iterator[None]:
    """Add the fields that have a value to every line logged in a block without a `yield` and in tasks begun in it."""
    token = _bound.set({name: value for name, value in fields.items() if value})
    try:
        yield
    finally:
        _bound.reset(token)


class JsonLines(logging.Formatter):
    """Formats a record as one line of JSON; what was given as `extra` becomes fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line.update(_bound.get({}))
        line.update({name: value for name, value in vars(record).items() if name not in STANDARD})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def frames_of(error: BaseException) -> list[str]:
    """Return where an error happened, without its message: that may hold a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-5:]]


def fields_of(error: BaseException) -> dict[str, object]:
    """Return the `extra` that tells of an error by its type and frames."""
    return {"error": type(error).__name__, "at": frames_of(error)}


def configure(level: str) -> None:
    """Send everything at `level` or above to stderr as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    for chatty in ("httpx", "urllib3", "sentence_transformers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    # A collector that is away is one line per batch, not one per span.
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    # The lifespan has said in one line why it cannot start; the server would add the traceback.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not record.getMessage().startswith("Traceback"))
