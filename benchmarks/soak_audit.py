"""After a soak: does what the service says of itself fit what its clients saw, and is its log clean?"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.soak_client import Outcome
from benchmarks.soak_mix import MARK, PROMPTS

# Routes that the soak itself asks beside its requests.
QUIET = ("/metrics", "/readyz", "/livez", "/v1/stats", "/v1/models")
AT_REST = (
    "headstart_pictures_in_work",
    "headstart_queue_depth",
    "headstart_active_jobs",
    "headstart_cache_pending_writes",
)
# What may have become of a request whose client hung up: it was in order.
UNSEEN = ("200", "429", "499")
DIGITS = re.compile(r"\d+")
Check = dict[str, Any]


class Exposition:
    """A scrape of `/metrics`."""

    def __init__(self, text: str) -> None:
        self.leaked = len(leaks(text, (*PROMPTS, MARK)))
        families = text_string_to_metric_families(text)
        self._samples = [sample for family in families for sample in family.samples]

    def total(self, name: str, **labels: str) -> float:
        """Return the sum of the samples that carry these labels."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return sums by the values of one label, without the quiet routes."""
        sums: Counter[str] = Counter()
        for sample in self._samples:
            if sample.name == name and sample.labels.get("route") not in QUIET:
                sums[sample.labels[label]] += int(sample.value)
        return dict(sums)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is queued, drawn or waiting to be written."""
        return all(self.total(name) == 0 for name in AT_REST)


def check_metrics(found: Exposition, outcomes: Sequence[Outcome], kills: int) -> list[Check]:
    """Compare the metrics with what the clients saw.

    A client that hung up does not know what became of its request, so it widens the bounds of every count it may
    be part of.
    """
    counted = [o for o in outcomes if o.shot.path not in QUIET]
    gone = sum(o.end == "gone" for o in counted)
    seen = Counter(str(o.status) for o in counted if o.status)
    served = found.by("headstart_requests_total", "status")
    drawn = sum(len(o.drawn) for o in outcomes)
    unsure = sum(o.shot.pictures for o in outcomes if o.end == "gone" or (o.shot.pictures > 1 and not o.drawn))
    checks = [_between(f"gauge {name} at the end", found.total(name), 0, 0) for name in AT_REST]
    for status in sorted(set(served) | set(seen)):
        most = seen[status] + (gone if status in UNSEEN else 0)
        checks.append(_between(f"requests answered {status}", served.get(status, 0), seen[status], most))
    return [
        *checks,
        _between("requests answered", sum(served.values()), len(counted) - gone, len(counted)),
        _between("pictures drawn", found.total("headstart_cache_lookups_total"), drawn, drawn + unsure),
        _between("pictures cancelled", found.total("headstart_cancelled_total"), 0, unsure),
        _between("requests turned away", found.total("headstart_rejected_total"), seen["429"], seen["429"] + gone),
        _between("engine restarts", found.total("headstart_engine_restarts_total"), kills, kills),
        _between("prompts and paths in labels", found.leaked, 0, 0),
    ]


def _between(what: str, value: float, low: float, high: float) -> Check:
    return {"what": what, "value": value, "low": low, "high": high, "holds": low <= value <= high}


def check_log(path: Path) -> dict[str, Any]:
    """Count warnings and errors by their text, lines that are no JSON, tracebacks, and prompts that leaked."""
    text = path.read_text(errors="replace")
    messages: Counter[str] = Counter()
    strays = []
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            strays.append(line[:200])
            continue
        if record["level"] in ("warning", "error", "critical"):
            messages[f"{record['level']}: {_general(record)}"] += 1
    return {
        "lines": len(text.splitlines()),
        "tracebacks": text.count("Traceback"),
        "unexpected": sum(count for message, count in messages.items() if "unexpected error" in message),
        "leaked_prompts": len(leaks(text, (*PROMPTS, MARK))),
        "messages": dict(messages.most_common(20)),
        "strays": strays[:10],
    }


def leaks(text: str, secrets: Iterable[str]) -> list[str]:
    """Return the secrets that occur in the text."""
    return [secret for secret in secrets if secret in text]


def _general(record: dict[str, Any]) -> str:
    """A message without its numbers, and what went wrong where."""
    where = f" ({record['error']} at {record['at'][-1:]})" if "at" in record else ""
    return DIGITS.sub("#", record["message"][:200]) + where
