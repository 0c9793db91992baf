"""The table of `benchmarks/lookup.py`."""

from typing import Any

Report = dict[str, Any]


def lookup_table(report: Report) -> list[str]:
    """Latency, recall and memory by number of entries."""
    data, settings = report["data"], report["settings"]
    return [
        f"Synthetic vectors: sessions of edits around embeddings of {data['prompts']} prompts ({data['origin']}). "
        f"One query at a time, on one thread, the {settings['limit']} nearest; `changing` = while {settings['rate']} "
        f"vectors a second are added and {settings['rate']} deleted, `training` = while the lists are made anew. "
        "Recall: the true nearest is among them (and is scored exactly afterwards); in brackets, of the queries "
        "whose nearest has a similarity of at least 0.85. Exact and HNSW: FAISS's own, at rest; HNSW cannot delete.",
        "",
        "| entries | p50 / p99, ms | changing | training | exact | HNSW | recall | HNSW's | bytes an entry | last "
        "training, s | load, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *[_row(row) for row in report["sizes"]],
        "",
        _rest(report),
        "",
        "![Latency, recall and memory over the number of entries](../docs/images/lookup.png)",
    ]


def lookup_summary(report: Report) -> list[str]:
    """The answer, for the README."""
    row = report["sizes"][-1]
    return [
        f"Among {row['n']:,} remembered prompts (synthetic vectors) a lookup takes {row['live']['p50_ms']:.1f} ms, "
        f"{row['live']['p99_ms']:.1f} ms at the 99th percentile, while others are added and deleted, and finds the "
        f"nearest in **{row['recall']:.1%}** of cases, at {row['bytes_per_entry']:.0f} bytes of memory an entry."
    ]


def _row(row: Report) -> str:
    graph = row.get("hnsw")
    cells = [
        f"{row['n']:,}",
        *[_pair(row[name]) for name in ("still", "live", "training", "exact")],
        _pair(graph) if graph else "",
        f"{row['recall']:.3f} ({row['recall_similar']:.3f})",
        f"{graph['recall']:.3f}" if graph else "",
        f"{row['bytes_per_entry']:.0f}",
        f"{row['last_training_s']:.1f}",
        f"{row['load_s']:.2f}",
    ]
    return "| " + " | ".join(cells) + " |"


def _pair(spread: Report) -> str:
    return f"{spread['p50_ms']:.2f} / {spread['p99_ms']:.2f}"


def _rest(report: Report) -> str:
    many, store = report["partitions"], report["store"]
    crossing = ", ".join(f"{row['n']}: {row['flat_ms']:.2f} / {row['ivf_ms']:.2f}" for row in report["crossover"])
    return (
        f"{many['partitions']} partitions of Zipf sizes, {many['n']:,} entries: {_pair(many)} ms. The store's whole "
        f"search, Redis included, at {store['n']:,} entries: {_pair(store)} ms; a replica takes in "
        f"{store['events_per_s']:.0f} events a second. Comparing with all / with lists, median ms by entries: "
        f"{crossing}; lists are used above {report['settings']['flat_limit']}."
    )
