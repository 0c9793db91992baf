"""The command line that every plot of a saved report shares."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any


def draw_saved(name: str, draw: Callable[[dict[str, Any], Path], None]) -> None:
    """Draw the report given on the command line.

    Args:
        name: of the benchmark.
        draw: makes the picture of a report.
    """
    parser = argparse.ArgumentParser(description=f"Draw a saved report of `python -m benchmarks {name}`.")
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    draw(json.loads(arguments.report.read_text()), arguments.picture)
