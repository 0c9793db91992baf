"""What a process is: where it listens, what it reads, how it stops."""

from typing import ClassVar, Literal

from pydantic import Field

from service.settings.section import Section


class Address(Section):
    """Where the service listens."""

    title: ClassVar[str] = "Address"

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")


class Requests(Section):
    """Bounds on requests, the log, the stop."""

    title: ClassVar[str] = "Requests, log, stop"

    max_prompt_chars: int = Field(4000, ge=1, le=100_000, description="Longest prompt accepted, in characters.")
    drain_seconds: float = Field(
        30.0, ge=0, le=3600, allow_inf_nan=False, description="Time running requests get to finish after SIGTERM."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line kept.")
    log_prompts: bool = Field(False, description="Write prompts to the log (off: they are private).")
