"""Write what `benchmarks/codec` found adequate into the threshold tables of the measured models.

`python -m benchmarks.codec_profile benchmarks/reports/codec.json`; a model whose weights have changed is refused.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.codec import MODELS
from policies.matching.table import ThresholdTable


def write_profile(folder: Path, model: dict[str, Any]) -> str:
    """Write one model's profile beside it; return the form.

    Args:
        folder: of the model.
        model: its part of the report.

    Raises:
        ValueError: the table is of other weights than the report.
    """
    table = ThresholdTable.load(folder / "matching.json")
    if table.key["weights_digest"] != model["weights_digest"]:
        raise ValueError(f"the report was made with other weights than those of {folder.name}")
    form = str(model["adequate_form"])
    measured = {
        way: {"over_trajectory": figures["over_trajectory"], "hits_kept": figures["hits_kept"]}
        for way, figures in model["ways"].items()
    }
    about = {"pairs": model["pairs"], "levels": model["levels"], "ways": measured}
    metadata = {**table.metadata, "forms": about}
    replace(table, adequate_form=form, metadata=metadata).save(folder / "matching.json")
    return form


def main(argv: list[str] | None = None) -> None:
    """Write all profiles of a report."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("report", type=Path)
    report = json.loads(parser.parse_args(argv).report.read_text())
    for name, model in report["models"].items():
        print(f"{name}: {write_profile(MODELS[name], model)}")


if __name__ == "__main__":
    main()
