"""What is read from the dashboards, the rules and the deployment files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "dashboards").glob("*.json"))
RULES = ROOT / "deploy" / "rules.yml"
PROMETHEUS = ROOT / "deploy" / "prometheus.yml"
COMPOSE = ROOT / "docker-compose.yml"
DOCKERFILE = ROOT / "Dockerfile"
METRIC = re.compile(r"\bheadstart_[a-z0-9_]+")
SUFFIX = re.compile(r"_(?:bucket|sum|count)$")
# What Grafana fills in, as a test may fill it in.
VARIABLES = {"$__rate_interval": "30s", "$__range": "5m", "$instance": ".*"}


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def dashboards() -> list[dict[str, Any]]:
    return [dict(json.loads(path.read_text(encoding="utf-8"))) for path in DASHBOARDS]


def panels() -> list[dict[str, Any]]:
    return [panel for board in dashboards() for panel in board["panels"] if panel["type"] != "row"]


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Yield (panel title, PromQL with Grafana's variables filled in)."""
    for panel in panels():
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in VARIABLES.items():
                query = query.replace(name, value)
            yield panel["title"], query


def rules() -> Iterator[dict[str, Any]]:
    for group in read_yaml(RULES)["groups"]:
        yield from group["rules"]


def families(text: str) -> set[str]:
    """Names of the metric families that a PromQL text mentions."""
    return {SUFFIX.sub("", name) for name in METRIC.findall(text)}


def environment_of(text: str) -> set[str]:
    return set(re.findall(r"\bHEADSTART_[A-Z_]+", text))


def sections(path: Path) -> dict[str, str]:
    """The text under each heading of a document, by the heading's anchor."""
    parts = re.split(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.M)
    slugs = [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in parts[1::2]]
    return dict(zip(slugs, parts[2::2], strict=True))


def documented_metrics(text: str) -> set[str]:
    """Names in the first columns of a document's tables of metrics, as they are exported (`# TYPE`)."""
    found = set()
    for row in re.findall(r"^\| (`(?:headstart_|…)[^|]*) \|", text, flags=re.M):
        found |= {re.sub(r"\{.*", "", name) for name in re.findall(r"`([^`]+)`", row)}
    return found
