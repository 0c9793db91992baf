"""The figures of `benchmarks/codec` as tables."""

from typing import Any

from benchmarks.facts import interval

Report = dict[str, Any]
NAMES = {"unet": "scenes-unet", "dit": "scenes-dit"}


def codec_table(report: Report) -> list[str]:
    """Pictures, hits, bytes and microseconds of every way to keep a run; and bytes for well-known models."""
    lines: list[str] = []
    for name, model in report["models"].items():
        lines += [*_model_lines(NAMES[name], model), ""]
    lines += [
        "Bytes of an entry with five levels, checksums and predictions included:",
        "",
        "| kept | " + " | ".join(report["sizes"]) + " |",
        "|---|" + "---|" * len(report["sizes"]),
    ]
    for way in next(iter(report["sizes"].values())):
        cells = " | ".join(f"{size[way]['entry'] / 1024:.0f} KiB" for size in report["sizes"].values())
        lines.append(f"| {way} | {cells} |")
    return [*lines, "", "![The same pairs served from every way to keep a run](../docs/images/codec.png)"]


def _model_lines(name: str, model: Report) -> list[str]:
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(model["kinds"].items(), key=lambda item: -item[1]))
    levels = ", ".join(f"{level:.0%}" for level in model["levels"])
    return [
        f"{name}: {model['pairs']} pairs the shipped table accepts, of {model['looked_at']} looked at ({kinds}), "
        f"resumed at {levels}; a run in full scores {interval(model['full_nstar'])}. "
        f"Kept by `auto`: **{model['adequate_form']}**.",
        "",
        "| kept | judge ÷ trajectory fp16 | ÷ run in full | hits kept | PSNR to trajectory fp16, dB "
        "| PSNR to the source, repeats of a text | bytes an entry | write, read ÷ denoising step | adequate |",
        "|---|---|---|---|---|---|---|---|---|",
        *(_row(way, figures) for way, figures in model["ways"].items()),
    ]


def _row(way: str, figures: Report) -> str:
    cells = (
        way,
        f"**{interval(figures['over_trajectory'])}**",
        interval(figures["over_full"]),
        f"{figures['hits_kept']:.0%}",
        _decibels(figures["psnr_to_trajectory"]),
        _decibels(figures["psnr_to_source_of_repeats"]),
        f"{figures['entry_bytes']:.0f}",
        f"{figures['encode_over_step']:.2%}, {figures['decode_over_step']:.2%}",
        "yes" if figures["adequate"] else "no",
    )
    return "| " + " | ".join(cells) + " |"


def _decibels(figure: dict[str, float]) -> str:
    if not figure["n"]:
        return "–"
    return "same" if figure["value"] >= 98.95 else f"{figure['value']:.1f}"
