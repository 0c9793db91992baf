"""The picture of a smoothness report. Imports matplotlib, which the service itself does without."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def draw_smoothness(report: dict[str, Any], path: Path) -> None:
    """Draw the three measures of a report side by side into `path`."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 3.6), dpi=90)
    _interpolation(left, report["istd"])
    _variation(middle, report["variation"])
    _resumed(right, report["resume_sensitivity"])
    figure.suptitle(f"{report['model']}, {report['solver']}, {report['steps']} steps", fontsize=10)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)


def _interpolation(axis: Any, istd: dict[str, Any]) -> None:
    for kind, found in istd.items():
        axis.scatter(found["distances"], found["deviations"], s=14, label=f"{kind}: ISTD {found['value']:.2f}")
    axis.set_xlabel("mean distance of neighbours")
    axis.set_ylabel("its standard deviation")
    axis.set_title("between two noises, per prompt", fontsize=9)
    axis.legend(fontsize=7)


def _variation(axis: Any, variation: dict[str, Any]) -> None:
    levels = variation["levels"]
    means = [row["mean"] for row in levels]
    deviations = [row["mean"] * row["cv"] for row in levels]
    axis.errorbar([row["log_snr"] for row in levels], means, yerr=deviations, marker="o", capsize=3)
    axis.set_xlabel("log signal-to-noise ratio")
    axis.set_ylabel("r, mean and standard deviation")
    axis.set_title("variation of the predicted clean latent", fontsize=9)


def _resumed(axis: Any, resumed: dict[str, Any]) -> None:
    shares = [row["share"] for row in resumed["depths"]]
    for pair in resumed["pairs"]:
        axis.plot(shares, pair["distances"], color=plt.cm.viridis(pair["similarity"]), lw=0.8, alpha=0.7)
    axis.plot(shares, [row["mean"] for row in resumed["depths"]], "k-o", label="mean")
    axis.plot(shares, [row["restart"] for row in resumed["depths"]], "k:", label="own state (restart)")
    axis.set_xlabel("share of the steps skipped")
    axis.set_ylabel("distance to own run, 1 = unrelated")
    axis.set_title("resume sensitivity; lighter = more similar", fontsize=9)
    axis.legend(fontsize=7)
