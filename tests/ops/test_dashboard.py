from itertools import combinations

import pytest
from ops_files import dashboard, dashboard_queries, families, panels, rules
from service_live import Client


@pytest.fixture(scope="module")
def exported(live_client: Client) -> set[str]:
    """Names of everything the real service exports."""
    lines = live_client.http.get("/metrics").text.splitlines()
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


def test_panels_have_ids_of_their_own_and_do_not_overlap() -> None:
    assert len({panel["id"] for panel in dashboard()["panels"]}) == len(dashboard()["panels"])
    for one, other in combinations([panel["gridPos"] | {"t": panel["title"]} for panel in dashboard()["panels"]], 2):
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
