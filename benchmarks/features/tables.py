"""The figures of the feature caching benchmarks as Markdown."""

from typing import Any

from benchmarks.facts import interval

Report = dict[str, Any]
BOUND = 0.99
SAVINGS = ("resume_alone", "features_alone", "both", "both_over_product")
MODELS = {"unet": "scenes-unet", "transformer": "scenes-dit"}
BEST = {
    "features": "50 steps with feature caching",
    "fewer_steps": "fewer steps",
    "joint": "resume, feature caching and fewer steps",
}


def features_table(report: Report) -> list[str]:
    """Every method at its strengths on both models, what was measured again, and the resumed runs."""
    lines: list[str] = []
    for part in report["models"].values():
        lines += _features_model(part)
    return lines


def features_summary(report: Report) -> list[str]:
    """The answers of `features_table`, for the README."""
    lines = [
        "| model | what | fastest with ≥ 99 % of the judge's score of 50 steps | times as fast as 50 steps "
        "| score ÷ 50 steps |",
        "|---|---|---|---|---|",
    ]
    for part in report["models"].values():
        for kind, title in BEST.items():
            row = part["best"][kind]
            if row is not None:
                speed, score = interval(row["speedup"], digits=2), interval(row["score_ratio"])
                lines.append(
                    f"| {MODELS[part['architecture']]} | {title} | {row['system']} | **{speed}** | {score} |"
                )
    for part in report["models"].values():
        lines += ["", *_over_star(part), _product(part), _automatic(part)]
    return lines


def _product(part: Report) -> str:
    shares = [row["both_over_product"] for row in part["multiplied"]]
    kept = min(row["score_over_resumed"]["value"] for row in part["multiplied"])
    return (
        f"Resumed runs of 50 steps with feature caching reach {min(shares):.2f} to {max(shares):.2f} of the product "
        f"of the two speed-ups, at {kept:.3f} of the uncached resume's score at least."
    )


def _automatic(part: Report) -> str:
    """What `auto` takes of a full run at the default number of steps."""
    rows = [
        row for row in part["validated"] if row["policy"] and row["steps"] == part["n_star"] and not row["reason"]
    ]
    good = [row for row in rows if row["score_over_plain"]["value"] >= BOUND]
    if not good:
        return f"At N\\* no choice keeps {BOUND:.0%} of the score."
    best = max(good, key=lambda row: row["speedup_over_plain"]["value"])
    speed = interval(best["speedup_over_plain"], digits=2)
    return (
        f"At N\\* `auto` takes {best['policy']} {best['strength']:g}: {speed} "
        f"times as fast as N\\* steps without, at {interval(best['score_over_plain'])} of their score."
    )


def _over_star(part: Report) -> list[str]:
    over = part["joint_over_n_star"]
    if over is None:
        return []
    return [
        f"{MODELS[part['architecture']]}: {over['system']} is {interval(over['speedup'], digits=2)} times as fast as "
        f"N\\* = {part['n_star']} steps from scratch, at {interval(over['score_ratio'])} of their score."
    ]


def _features_model(part: Report) -> list[str]:
    pictures = part["screened"][0]["pictures"]
    lines = [
        f"### {MODELS[part['architecture']]}",
        "",
        f"First look, {pictures} pictures; score and speed against 50 steps, PSNR and SSIM against the same run "
        "without feature caching.",
        "",
        *_features_rows(part["screened"]),
        "",
        f"Measured again on {part['validated'][0]['pictures']} other pictures:",
        "",
        *_features_rows(part["validated"]),
        "",
        "Pairs of prompts inside the shipped table, around N\\*, again on others:",
        "",
        *_features_rows(part["validated_joint"]),
        "",
        *_over_star(part),
        "",
        *_libraries(part["libraries"]),
        "Resumed runs of 50 steps:",
        "",
        "| system | resume alone | features alone | both | ÷ product | score ÷ uncached resume "
        "| PSNR mean / p5 / worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in part["multiplied"]:
        ratios = " | ".join(f"{row[name]:.2f}" for name in SAVINGS)
        lines.append(
            f"| {row['system']} | {ratios} | {interval(row['score_over_resumed'])} | {_decibels(row['psnr'])} |"
        )
    return [*lines, ""]


def _libraries(rows: list[Report]) -> list[str]:
    if not rows:
        return []
    return [
        "Other libraries' methods, which draw one request at a time, beside ours, likewise one at a time (20 steps, "
        f"dpmpp_2m, {rows[0]['pictures']} pictures; score and speed against 20 steps):",
        "",
        *_features_rows(rows),
        "",
    ]


def _features_rows(rows: list[Report]) -> list[str]:
    lines = [
        "| system | multiply-adds, times fewer | wall clock, times as fast | score | score ÷ reference "
        "| PSNR mean / p5 / worst | SSIM mean / p5 / worst |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        name = row["system"] + (f" ({row['reason']})" if row["reason"] else "")
        similar = " / ".join(f"{row['ssim'][part]:.3f}" for part in ("mean", "p5", "worst"))
        lines.append(
            f"| {name} | {row['flops_ratio']:.2f} | {interval(row['speedup'], digits=2)} | {interval(row['score'])} "
            f"| {interval(row['score_ratio'])} | {_decibels(row['psnr'])} | {similar} |"
        )
    return lines


def _decibels(figure: dict[str, float]) -> str:
    return " / ".join(f"{figure[part]:.1f}" for part in ("mean", "p5", "worst"))


def features_batching_table(report: Report) -> list[str]:
    """Throughput of mixed batches with and without feature caching."""
    lines = [
        f"75 % hits, K from 5 to 25 of {report['steps']} steps, {report['rounds']} round(s), over HTTP.",
        "",
        "| system | pictures/s | ÷ joined | ÷ uncached | multiply-adds of joined, times fewer "
        "| latency p50 / p95, s |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["systems"]:
        fewer = "–" if row["flops_over_joined"] is None else f"{row['flops_over_joined']:.2f}"
        ratios = f"**{interval(row['over_joined'], digits=2)}** | {interval(row['over_uncached'], digits=2)}"
        latency = f"{row['latency_p50']:.1f} / {row['latency_p95']:.1f}"
        lines.append(f"| {row['system']} | {interval(row['pictures_per_second'])} | {ratios} | {fewer} | {latency} |")
    return lines
