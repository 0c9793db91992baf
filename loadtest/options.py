"""The replay's own options of Locust's command line, and their check."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from locust.argument_parser import LocustArgumentParser

from loadtest.arrivals import PROCESSES, Arrivals
from loadtest.mixes import read_sizes, read_steps
from loadtest.prompt_log import read_prompt_log
from loadtest.schedule import Request, Wishes, build_schedule
from loadtest.sending import RETRIES, Patience
from loadtest.tenants import Tenant, read_tenants

SAMPLE_LOG = Path(__file__).parent / "sample_log.jsonl"
MODES = ["auto", "exact", "approximate", "off"]
MAX_CLASSES = 16


def add_options(parser: LocustArgumentParser) -> None:
    """Declare the options (`--log` also as LOCUST_LOG)."""
    _add_what(parser.add_argument_group("Replay: what is sent"))
    _add_when(parser.add_argument_group("Replay: when"))
    _add_how(parser.add_argument_group("Replay: clients"))
    _add_report(parser.add_argument_group("Replay: what is measured and written"))


def _add_what(group: Any) -> None:
    group.add_argument(
        "--log", default=str(SAMPLE_LOG), env_var="LOCUST_LOG", help="Prompt log: CSV, TSV, JSONL, Parquet."
    )
    group.add_argument("--limit", type=int, default=0, help="Replay this many rows only; 0 is all.")
    group.add_argument("--cache-mode", default="auto", choices=MODES, help="Sent with every request.")
    group.add_argument("--seed-column", default="seed", help="Column with seeds; rows without one send none.")
    group.add_argument("--sizes", default="", help="512x512:3,1024x1024:1 (value:weight), or log; else the default.")
    group.add_argument("--steps", default="0", help="20:3,50:1 (value:weight), or log; 0 leaves the default.")
    group.add_argument("--keys", default="", help="File of API keys, one a line (KEY or NAME KEY); busiest first.")
    group.add_argument("--skew", type=float, default=1.0, help="Zipf exponent of the keys; 0 is even.")
    group.add_argument("--dice", type=int, default=1, help="Seed of all that is drawn.")


def _add_when(group: Any) -> None:
    group.add_argument("--arrivals", default="log", choices=list(PROCESSES), help="The log's times, or a process.")
    group.add_argument("--rate", type=float, default=None, help="Requests per second on average.")
    group.add_argument(
        "--load", type=float, default=None, help="Instead: seconds of work due per second, as it takes alone."
    )
    group.add_argument("--speed", type=float, default=1.0, help="Divide the log's times by this.")
    group.add_argument("--cv", type=float, default=1.0, help="gamma: coefficient of variation of the gaps.")
    group.add_argument("--on", type=float, default=10.0, help="on-off: seconds of traffic in a row.")
    group.add_argument("--off", type=float, default=10.0, help="on-off: seconds of silence in a row.")


def _add_how(group: Any) -> None:
    group.add_argument(
        "--retry", default="never", choices=list(RETRIES), help="After 429 and 503; honour Retry-After?"
    )
    group.add_argument("--retries", type=int, default=3, help="Comebacks of one request at most.")
    group.add_argument("--retry-wait", type=float, default=1.0, help="Seconds, without Retry-After or ignoring it.")
    group.add_argument("--answer-timeout", type=float, default=300.0, help="Seconds to wait for one picture.")


def _add_report(group: Any) -> None:
    group.add_argument("--probes", type=int, default=3, help="Requests sent alone first, for the SLO; 0: none.")
    group.add_argument("--slo-factor", type=float, default=3.0, help="SLO: this times the time alone.")
    group.add_argument("--slo-seconds", type=float, default=0.0, help="SLO in seconds instead.")
    group.add_argument("--max-lateness", type=float, default=0.0, help="Seconds the generator may be late (p99).")
    group.add_argument("--control", action="store_true", help="Then the same schedule again, uncached, to compare.")
    group.add_argument("--report", default="", help="Write figures and every outcome to this JSON file.")
    group.add_argument("--out", default="", help="Write report.html, report.md and report.json to this folder.")
    group.add_argument("--save-images", default="", help="Write every picture to this folder.")


@dataclass(frozen=True)
class Choices:
    """The options once read and checked; every process of a replay has equal ones.

    Attributes:
        given: the options as given.
        schedule: all requests.
        tenants: the keys, busiest first.
        patience: when refused.
    """

    given: dict[str, Any]
    schedule: list[Request]
    tenants: list[Tenant]
    patience: Patience

    @property
    def timed(self) -> bool:
        """Whether the replay is open loop."""
        return self.schedule[0].due is not None

    @property
    def modes(self) -> list[tuple[str, str]]:
        """Name and cache mode of each run."""
        control = [("uncached control", "off")] if self.given["control"] else []
        return [("replay", self.given["cache_mode"]), *control]

    @property
    def probes(self) -> int:
        """Requests of each class to send alone."""
        return 0 if self.given["slo_seconds"] else int(self.given["probes"])


def read_choices(parsed: Any) -> Choices:
    """Read and check the options, the log and the keys.

    Raises:
        PromptLogError: the log cannot be used.
        ValueError: an option cannot be used; the message names it.
    """
    given = vars(parsed)
    _check(given)
    patience = Patience(given["retry"], given["retries"], given["retry_wait"])
    patience.check()
    rate = 1.0 if given["load"] and given["arrivals"] != "log" else given["rate"]  # stretched once times are known
    arrivals = Arrivals(given["arrivals"], rate, given["cv"], given["on"], given["off"])
    arrivals.check()
    tenants = read_tenants(Path(given["keys"])) if given["keys"] else []
    sizes, steps = read_sizes(given["sizes"]), read_steps(given["steps"])
    rows = read_prompt_log(Path(given["log"]), seed_column=given["seed_column"], limit=given["limit"] or None)
    wishes = Wishes(arrivals, given["speed"], sizes, steps, len(tenants), given["skew"], given["dice"])
    choices = Choices(given, build_schedule(rows, wishes), tenants, patience)
    _check_classes(choices)
    _check_load(choices)
    return choices


def _check(given: dict[str, Any]) -> None:
    if not (math.isfinite(given["speed"]) and given["speed"] > 0):
        raise ValueError("--speed must be above 0")
    if given["speed"] != 1.0 and (given["rate"] is not None or given["arrivals"] != "log"):
        raise ValueError("--speed is for the log's own times; leave it out with --rate or --arrivals")
    if given["load"] is not None and not (math.isfinite(given["load"]) and given["load"] > 0):
        raise ValueError("--load must be above 0")
    if given["limit"] < 0 or given["probes"] < 0 or given["dice"] < 0:
        raise ValueError("--limit, --probes and --dice must not be negative")
    for name in ("skew", "slo_factor", "slo_seconds", "max_lateness"):
        if not (math.isfinite(given[name]) and given[name] >= 0):
            raise ValueError(f"--{name.replace('_', '-')} must not be negative")
    if given["slo_factor"] <= 0 or given["answer_timeout"] <= 0:
        raise ValueError("--slo-factor and --answer-timeout must be above 0")


def _check_load(choices: Choices) -> None:
    load = choices.given["load"]
    if load is None:
        return
    if choices.given["rate"] is not None or choices.given["speed"] != 1.0 or choices.given["arrivals"] == "on-off":
        raise ValueError("--load does not go with --rate, --speed or --arrivals on-off")
    if not choices.timed or not choices.probes:
        raise ValueError("--load needs a log with times or --arrivals, and --probes above 0 without --slo-seconds")


def _check_classes(choices: Choices) -> None:
    classes = len({one.asked for one in choices.schedule})
    if choices.probes and classes > MAX_CLASSES:
        raise ValueError(
            f"{classes} different pairs of size and steps are too many to time alone: give --slo-seconds"
        )
