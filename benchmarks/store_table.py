"""The table of `benchmarks/store.py`."""

from typing import Any


def store_table(report: dict[str, Any]) -> list[str]:
    """Writes by system, reads by place, each for every size of state."""
    steps = ", ".join(f"{model} {value:.1f} ms" for model, value in report["step_ms"].items())
    lines = [
        "Writing entries of four states; amplification = bytes sent to the disk ÷ bytes of states (ours with Redis' "
        "log and one rewrite of it). Without sync unless it says so, as ours: Redis syncs its log once a second, "
        "objects are left to the kernel.",
        "",
        "| size of states | bytes | system | entries/s | MB/s | ÷ files | write amplification |",
        "|---|---|---|---|---|---|---|",
    ]
    files = {row["size"]: row["entries_per_second"] for row in report["writes"] if row["system"] == "files"}
    for row in report["writes"]:
        speed = row["entries_per_second"]
        lines.append(
            f"| {row['size']} | {row['state_bytes']} | {row['system']} | {speed:.0f} | {row['mb_per_second']:.1f} "
            f"| {speed / files[row['size']]:.2f} | {row['write_amplification']:.2f} |"
        )
    server = report["s3_server"] or "none installed: no rows"
    lines += [
        "",
        f"Loading one state, checksum verified; S3: {server}. One denoising step drawn alone: {steps}.",
        "",
        "| size of states | place | p50, ms | p99, ms | "
        + " | ".join(f"÷ step, {m}" for m in report["step_ms"])
        + " |",
        "|---|---|---|---|" + "---|" * len(report["step_ms"]),
    ]
    for row in report["reads"]:
        shares = " | ".join(f"{share:.2%}" for share in row["share_of_step"].values())
        lines.append(f"| {row['size']} | {row['place']} | {row['p50_ms']:.3f} | {row['p99_ms']:.3f} | {shares} |")
    return [*lines, "", "![States written and loaded, by size and place](../docs/images/store.png)"]
