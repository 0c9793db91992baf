"""How a command of ours ends that cannot do what it was asked."""

from typing import NoReturn

import typer

BAD_INPUT, FAILED, INTERRUPTED = 2, 1, 130
"""Exit codes: what was asked for cannot be done, or it could and went wrong, or was interrupted (128 + SIGINT)."""


def stop(error: object, code: int) -> NoReturn:
    """Say why in one line and end.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"headstart: {error}", err=True)
    raise typer.Exit(code)
