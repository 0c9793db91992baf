"""The words and tables of `benchmarks/overload.py`."""

from typing import Any

Report = dict[str, Any]


def overload_table(report: Report) -> list[str]:
    """Goodput by load and arm, promises kept, shares of tenants, and when prediction matters."""
    return [
        f"Arrivals: {report['arrivals']}; {report['seconds_each']:.0f} s each, open loop, uncached requests, at "
        f"most {report['max_batch']} in a batch. In time: within {report['slo_factor']:g} times what a picture takes "
        "alone. A refused client comes back when told to, up to three times; its time runs from the attempt that was "
        "let in. Capacity: mean of a closed loop before and after each run. Attainable: what a device of that speed "
        "could at best have had in time of these arrivals.",
        "",
        "| load | admission | goodput ÷ capacity | goodput ÷ attainable | in time, of those served "
        "| p95 ÷ time allowed | let in at the time told |",
        "|---|---|---|---|---|---|---|",
        *(_row(row) for row in report["rows"]),
        "",
        "![Goodput by load](../docs/images/overload.png)",
        "",
        *_fairness(report["fairness"]),
        "",
        *_stages(report["stages"]),
        "",
        *_depth(report["depth"]),
    ]


def overload_summary(report: Report) -> list[str]:
    """The answer of `overload_table`, for the README."""
    top = report["headline"]
    return [
        f"At twice the capacity (open loop, {report['arrivals'].split(',')[0]}), admission by predicted finish keeps "
        f"**{top['goodput_over_capacity_2x']:.0%}** of the capacity as pictures in time "
        f"({top['goodput_over_attainable_2x']:.0%} of what these arrivals allow at best); without it, "
        f"{top['goodput_over_capacity_2x_without']:.0%}. Of the clients that come back when `Retry-After` says, "
        f"{top['retry_after_kept_2x']:.0%} are let in. Jain's index over three unequal tenants: "
        f"{top['jain_fair']:.2f}, in order of arrival {top['jain_arrival_order']:.2f}.",
    ]


def _row(row: Report) -> str:
    kept = f"{row['retry_kept']:.0%} of {row['returns']}" if row["returns"] else "–"
    arm = {"admission": "predicted finish", "none": "none"}[row["arm"]]
    return (
        f"| {row['load']:g} | {arm} | **{row['goodput_over_capacity']:.0%}** | {row['goodput_over_attainable']:.0%} "
        f"| {row['in_time_share_of_served']:.0%} | {row['seconds_p95'] / row['patience_seconds']:.2f} | {kept} |"
    )


def _fairness(fairness: Report) -> list[str]:
    lines = [
        "| device seconds | " + " | ".join(fairness["fair"]["shares"]) + " | Jain's index |",
        "|---|---|---|---|---|",
    ]
    for kind, found in fairness.items():
        shares = " | ".join(f"{share:.0%}" for share in found["shares"].values())
        lines.append(f"| {kind} | {shares} | **{found['jain']:.3f}** |")
    return lines


def _stages(rows: list[Report]) -> list[str]:
    names = [name for name in rows[0] if name != "decode_over_denoise"]
    lines = [
        "When predicting the second stage matters (simulation, decoding beside the steps, twice the capacity; "
        "goodput ÷ capacity of the slower stage):",
        "",
        "| decoding ÷ denoising | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in rows:
        cells = " | ".join(f"{row[name]['goodput']:.0%}" for name in names)
        lines.append(f"| {row['decode_over_denoise']:g} | {cells} |")
    return lines


def _depth(found: Report) -> list[str]:
    return [
        f"Skipping more under load, inside the shipped table's rows: of {found['sets_with_a_match']} drawn sets of "
        f"neighbours with a match, the deepest state first would save more in "
        f"{found['sets_where_deepest_saves_more']}. Expected share of steps saved: "
        f"{found['expected_saving_deepest']:.3f}; as it is, {found['expected_saving_most_promising']:.3f}.",
    ]
