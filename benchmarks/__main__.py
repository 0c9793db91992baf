"""Command line of the benchmarks."""

import argparse
import importlib
import json
import sys
import time
from pathlib import Path

from benchmarks.facts import machine_facts

NAMES = (
    "adversarial",
    "api",
    "audit",
    "batching",
    "candidates",
    "chaos",
    "codec",
    "crash",
    "diversity",
    "eviction",
    "features",
    "features_batching",
    "gate",
    "heatmaps",
    "lookup",
    "matching",
    "n_star",
    "n_star_dit",
    "overhead",
    "overload",
    "pareto",
    "replay",
    "replay_exact",
    "resume",
    "soak",
    "solver_resume",
    "store",
    "tenancy",
    "veto",
)


def main(argv: list[str] | None = None) -> int:
    """Run one benchmark; its JSON object is the last line of the output."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios measured in one run.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", action="store_true", help="print only the JSON object")
    parser.add_argument("--quick", action="store_true", help="fewer samples; ends within 5 minutes on two cores")
    parser.add_argument("--requests", type=int, help="soak and chaos only: how many requests to send")
    parser.add_argument("--keyed", action="store_true", help="soak only: the service asks for an API key")
    parser.add_argument("--litserve-python", help="api only: an interpreter that has LitServe (else null)")
    parser.add_argument("--out", type=Path, help="also write the JSON object, indented, to this file")
    args = parser.parse_args(argv)
    if args.requests is not None and (args.name not in ("soak", "chaos") or args.requests < 1):
        parser.error("--requests: a number of at least 1, of soak and chaos only")
    if args.keyed and args.name != "soak":
        parser.error("--keyed: of soak only")
    if args.litserve_python is not None and args.name != "api":
        parser.error("--litserve-python: of api only")
    given = {"requests": args.requests, "litserve_python": args.litserve_python, "keyed": args.keyed or None}
    extras = {name: value for name, value in given.items() if value is not None}
    started = time.perf_counter()
    module = importlib.import_module(f"benchmarks.{args.name}")
    report = module.run(quick=args.quick, quiet=args.json, **extras)
    report |= {"benchmark": args.name, "quick": args.quick, "machine": machine_facts()}
    report["seconds"] = round(time.perf_counter() - started, 1)
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    if not args.json:
        print(json.dumps(report["headline"], indent=1), file=sys.stderr)
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
