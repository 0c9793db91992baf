"""Write what `auto` chooses from: `python -m benchmarks.features_front benchmarks/reports/features.json`.

Only systems that were measured on the validation pictures count, against the same run without feature caching.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from policies.features.front import Front, FrontKey, FrontPoint
from service.engine.loading import load_pipeline
from training.loop import DIT_FOLDER, UNET_FOLDER

FOLDERS = {"unet": UNET_FOLDER, "dit": DIT_FOLDER}


def front_of(part: dict[str, Any], folder: Path) -> Front:
    """Return one model's front.

    Args:
        part: of the report.
        folder: of the model.

    Raises:
        ValueError: the report was made with other weights.
    """
    info = load_pipeline(str(folder), "cpu", "float32").info
    if part["weights_digest"] != info.weights_digest:
        raise ValueError(f"the report was made with other weights than those in {folder}")
    key = FrontKey(info.weights_digest, info.schedule, info.width, info.height, part["guidance"], info.dtype)
    rows = [row for row in (*part["validated"], *part["validated_joint"]) if row["policy"] and not row["reason"]]
    # Of full runs; the pairs of the joint runs give those of resumed ones.
    full = {(row["system"]): row for row in part["validated"] if row["policy"] and not row["reason"]}
    kept = full | {row["system"]: row for row in rows if row["entry"] and not row["resume_warmup"]}
    return Front(key, tuple(map(_point, kept.values())), {"pictures": rows[0]["pictures"] if rows else 0})


def _point(row: dict[str, Any]) -> FrontPoint:
    return FrontPoint(
        solver=row["solver"],
        steps=row["steps"],
        policy=row["policy"],
        strength=row["strength"],
        skip=row["entry"] / row["steps"],
        speedup=row["speedup_over_plain"]["value"],
        quality=row["score_over_plain"]["value"],
        lower95=row["score_over_plain"]["low"],
    )


def main() -> None:
    """Write `features/front.json` of both shipped models."""
    parser = argparse.ArgumentParser(description="Write the fronts of a saved report.")
    parser.add_argument("report", type=Path)
    report = json.loads(parser.parse_args().report.read_text())
    for name, folder in FOLDERS.items():
        front_of(report["models"][name], folder).save(folder / "features" / "front.json")


if __name__ == "__main__":
    main()
