"""How a command of ours ends that cannot do what it was asked."""

from typing import NoReturn

import typer

BAD_INPUT, FAILED = 2, 1
"""Exit codes: what was asked for cannot be done, or it could and went wrong."""


def stop(error: object, code: int) -> NoReturn:
    """Say why in one line and end.

    Raises:
        typer.Exit: always.
    """
    typer.echo(f"headstart: {error}", err=True)
    raise typer.Exit(code)
