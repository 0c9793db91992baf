from itertools import combinations
from typing import Any

import pytest
from ops_files import (
    ROOT,
    dashboard_queries,
    dashboards,
    documented_metrics,
    families,
    panels,
    read_yaml,
    rules,
    sections,
)
from service_live import Client


@pytest.fixture(scope="module")
def exported(watched_client: Client) -> set[str]:
    """Names of everything the real service exports."""
    lines = watched_client.http.get("/metrics").text.splitlines()
    return {line.split()[2] for line in lines if line.startswith("# TYPE ")}


def test_every_metric_of_the_dashboard_is_exported(exported: set[str]) -> None:
    wanted = {name: title for title, query in dashboard_queries() for name in families(query)}
    assert {name: title for name, title in wanted.items() if name not in exported} == {}


def test_every_metric_of_the_rules_is_exported(exported: set[str]) -> None:
    wanted = {name: rule.get("alert", rule.get("record")) for rule in rules() for name in families(rule["expr"])}
    assert {name: rule for name, rule in wanted.items() if name not in exported} == {}


def test_every_exported_metric_is_on_the_dashboard(exported: set[str]) -> None:
    shown = {name for _, query in dashboard_queries() for name in families(query)}
    extra = {name for name in exported - shown if not name.endswith("_created")}
    assert extra <= {"headstart_pictures_in_work"}


def test_there_is_one_for_operations_savings_and_quality() -> None:
    assert {board["title"].partition(": ")[2] for board in dashboards()} == {"operations", "savings", "quality"}
    assert len({board["uid"] for board in dashboards()}) == 3
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)
    for board in dashboards():
        assert {variable["name"] for variable in board["templating"]["list"]} == {"datasource", "instance"}
        assert board["links"][0]["tags"] == ["headstart"]
        assert "headstart" in board["tags"]


@pytest.mark.parametrize("board", dashboards(), ids=lambda board: board["uid"])
def test_panels_have_ids_of_their_own_and_do_not_overlap(board: dict[str, Any]) -> None:
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    for one, other in combinations([panel["gridPos"] | {"t": panel["title"]} for panel in board["panels"]], 2):
        apart = (
            one["x"] + one["w"] <= other["x"]
            or other["x"] + other["w"] <= one["x"]
            or one["y"] + one["h"] <= other["y"]
            or other["y"] + other["h"] <= one["y"]
        )
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_panels_explain_themselves_and_name_no_fixed_data_source() -> None:
    for panel in panels():
        assert panel["description"].endswith("."), panel["title"]
        for target in panel["targets"]:
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


def test_alerts_say_what_is_wrong_and_how_bad() -> None:
    alerts = [rule for rule in rules() if "alert" in rule]
    assert len(alerts) >= 8
    for alert in alerts:
        assert alert["labels"]["severity"] in ("info", "warning", "critical")
        assert alert["annotations"]["summary"].endswith(".")


def test_every_alert_leads_to_its_entry_in_the_runbook() -> None:
    for alert in (rule for rule in rules() if "alert" in rule):
        document, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        entry = sections(ROOT / document)[anchor]
        assert f"`{alert['alert']}`" in entry, alert["alert"]


def test_every_alert_is_tested_to_fire_and_to_be_silent() -> None:
    cases = read_yaml(ROOT / "tests" / "ops" / "ops_rules_test.yml")["tests"]
    checks = [check for case in cases for check in case.get("alert_rule_test", [])]
    names = {rule["alert"] for rule in rules() if "alert" in rule}
    assert {check["alertname"] for check in checks if check["exp_alerts"]} == names
    assert {check["alertname"] for check in checks if not check["exp_alerts"]} == names


def test_every_recorded_series_is_tested() -> None:
    cases = read_yaml(ROOT / "tests" / "ops" / "ops_rules_test.yml")["tests"]
    tested = {check["expr"] for case in cases for check in case.get("promql_expr_test", [])}
    untested = {rule["record"] for rule in rules() if "record" in rule} - tested
    assert untested <= {"headstart:gpu_seconds_saved:rate5m"}


def test_what_was_spent_on_pictures_given_up_is_spent() -> None:
    told = [rule["expr"] for rule in rules()] + [query for _, query in dashboard_queries()]
    spent = [expr for expr in told if "headstart_gpu_seconds_total" in expr]
    assert len(spent) >= 5
    for expr in spent:
        assert "headstart_given_up_gpu_seconds_total" in expr, expr


def test_the_document_explains_every_metric_and_no_other(exported: set[str]) -> None:
    told = documented_metrics((ROOT / "docs" / "operations.md").read_text(encoding="utf-8"))
    wanted = {name for name in exported if not name.endswith("_created")}
    assert told == wanted
