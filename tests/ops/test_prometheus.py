"""The rules under promtool, and every query of the dashboard on a real Prometheus that scrapes the real service."""

import json
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from ops_files import PROMETHEUS, RULES, dashboard_queries, read_yaml, rules
from service_live import Client, LiveServer

HERE = Path(__file__).parent


def binary(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} on this machine (Debian: apt-get install prometheus)")
    return path


def promtool(*arguments: object) -> str:
    command = [binary("promtool"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_promtool_accepts_config_and_rules() -> None:
    assert "SUCCESS" in promtool("check", "config", PROMETHEUS)
    assert "SUCCESS" in promtool("check", "rules", RULES)


def test_rules_fire_when_they_should_and_only_then() -> None:
    assert "SUCCESS" in promtool("test", "rules", HERE / "ops_rules_test.yml")


class Scraper:
    """A real Prometheus with the shipped configuration, pointed at the test's service and hurried up."""

    def __init__(self, folder: Path, target: str) -> None:
        config = read_yaml(PROMETHEUS)
        config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
        config["rule_files"] = [str(RULES)]
        config["scrape_configs"][0]["static_configs"] = [{"targets": [target]}]
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.command = [
            binary("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]

    def query(self, text: str) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": text}, timeout=10)
        if answer.status_code == 503:  # it is still starting
            return []
        body = answer.json()
        assert body["status"] == "success", (text, body)
        return list(body["data"]["result"])

    def value(self, text: str) -> float:
        found = self.query(text)
        return float(found[0]["value"][1]) if found else 0.0

    def wait(self, text: str, above: float = 0.0, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.value(text) > above:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.25)
        raise AssertionError(f"never above {above}: {text}")


@pytest.fixture(scope="module")
def scraper(
    tmp_path_factory: pytest.TempPathFactory, watched_service: LiveServer, watched_client: Client
) -> Iterator[Scraper]:
    folder = tmp_path_factory.mktemp("prometheus")
    scraper = Scraper(folder, f"127.0.0.1:{watched_service.port}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(scraper.command, stdout=log, stderr=log)
    try:
        scraper.wait('up{job="headstart"}')
        # A labelled series starts with its first event, so only the second one is an increase.
        for rounds in range(2):
            draw_one_of_each(watched_client, rounds)
            scraper.wait('headstart_cache_lookups_total{verdict="BYPASS"}', above=rounds)
        yield scraper
    finally:
        process.terminate()
        process.wait(20)


def draw_one_of_each(client: Client, rounds: int) -> None:
    client.draw("a violet crescent in the snow", seed=11)
    assert client.cache("a crescent of its own", negative_prompt=f"round {rounds}")["verdict"] == "MISS"
    client.settle()
    assert client.cache("a violet crescent in the snow", seed=11)["verdict"] == "EXACT"
    assert client.cache("a purple crescent in the snow")["verdict"] == "APPROX"
    assert client.cache("a violet crescent in the snow", cache={"mode": "off"})["verdict"] == "BYPASS"


def test_every_query_of_the_dashboards_is_answered_with_data(scraper: Scraper, watched_client: Client) -> None:
    audited = 'headstart_audit_hits_total{verdict="even"}'
    scraper.wait(f"sum({audited})", seconds=120)  # in idle time
    watched_client.draw("a crescent after the audit", feature_cache={"policy": "deepcache"})
    deadline = time.monotonic() + 90  # a rate needs two scrapes, which a busy machine may delay
    while True:
        empty = {title for title, query in dashboard_queries() if not scraper.query(query)}
        if not empty or time.monotonic() > deadline:
            break
        time.sleep(1)
    assert not empty


def test_savings_come_out_as_the_service_counts_them(scraper: Scraper, watched_client: Client) -> None:
    counted = watched_client.metric("headstart_cache_saved_gpu_seconds_total")
    scraper.wait("headstart_cache_saved_gpu_seconds_total", above=counted * 0.999)
    at_a_glance = dict(dashboard_queries())
    for title in ("GPU hours saved", "Share of GPU time saved", "Steps skipped", "Pictures with a hit", "Pictures"):
        assert scraper.value(at_a_glance[title]) > 0, title
    assert scraper.value(at_a_glance["Steps skipped"]) < 1
    assert scraper.value(at_a_glance["Cache"]) == 1
    hours = scraper.value(at_a_glance["GPU hours saved"])
    assert scraper.value(at_a_glance["Money saved"]) == pytest.approx(hours * 2.5, rel=0.2)
    assert scraper.value(at_a_glance["kWh saved"]) == pytest.approx(hours * 0.4, rel=0.2)
    assert scraper.query(at_a_glance["Money saved"])[0]["metric"] == {"currency": "EUR"}


def test_recorded_series_appear(scraper: Scraper) -> None:
    for rule in rules():
        if "record" in rule:
            scraper.wait(f"count({rule['record']})", seconds=30)


def test_no_alert_fires_on_a_sound_service(scraper: Scraper) -> None:
    firing = scraper.query('ALERTS{alertstate="firing"}')
    assert firing == [], json.dumps(firing)
