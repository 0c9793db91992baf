"""The contact sheet of `benchmarks/diversity`: `python -m benchmarks.diversity_sheet docs/images/diversity.png`."""

import argparse
from pathlib import Path

from benchmarks.diversity import SHEET_CASES, measure
from benchmarks.resume_trials import MODEL


def main(argv: list[str] | None = None) -> None:
    """Run a few pairs at the table's middle level and draw them."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("picture", type=Path)
    measure(MODEL, SHEET_CASES, quick=True, quiet=False, sheet=parser.parse_args(argv).picture)


if __name__ == "__main__":
    main()
