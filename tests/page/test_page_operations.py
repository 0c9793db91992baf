"""The live view of what the service does."""

import re

from browser import Page
from page_doings import draw
from service_live import Client

CARDS = "document.querySelectorAll('#figures .card').length"


def card(page: Page, title: str) -> str:
    found = (
        f"[...document.querySelectorAll('.card')].find((one) => one.querySelector('h3').textContent === '{title}')"
    )
    return str(page.run(f"{found}.innerText"))


def figures(text: str) -> list[int]:
    return [int(number.replace(",", "")) for number in re.findall(r"\d[\d,]*", text)]


def test_the_figures_are_the_services_and_move(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a tin drum on a shelf", seed="4")
    live_client.settle()
    fresh.click("#to-operations")
    fresh.wait(f"{CARDS} === 5")
    assert fresh.run("document.activeElement.id") == "operations-title"
    verdicts = live_client.http.get("/v1/stats").json()["verdicts"]
    before = figures(card(fresh, "Pictures"))[0]
    assert before == sum(verdicts.values())
    live_client.draw("a tin drum on a shelf", seed=4)
    counted = f"[...document.querySelectorAll('#figures .figure')][0].textContent.replace(',', '') === '{before + 1}'"
    fresh.wait(counted, timeout=30)
    assert f"returned again {verdicts['EXACT'] + 1}" in card(fresh, "Pictures").replace("\n", " ")
    assert "%" in card(fresh, "Hit share")
    assert re.search(r"\d (s|min|h)", card(fresh, "GPU time saved"))
    assert "waiting" in card(fresh, "Queue")
    assert re.search(r"[\d.]+ (ms|s)", card(fresh, "Step time"))
    fresh.wait("document.querySelectorAll('.spark-line').length >= 2")
    assert all(fresh.run("[...document.querySelectorAll('#figures svg')].map((one) => one.ariaLabel.length > 5)"))
    assert fresh.problems == []


def test_store_health_and_audit_are_told(fresh: Page, live_client: Client) -> None:
    live_client.settle()
    fresh.click("#to-operations")
    fresh.wait("!!document.querySelector('#store dd')")
    held = live_client.http.get("/v1/stats").json()["cache"]
    assert figures(fresh.text("#store"))[0] == held["entries"]
    assert "States on disk" in fresh.text("#store")
    assert "ready" in fresh.text("#health")
    assert "available" in fresh.text("#health")
    fresh.wait("document.querySelector('#audit-body').innerText.length > 10")
    assert fresh.problems == []


def test_nothing_is_read_while_another_view_is_shown(fresh: Page, live_client: Client) -> None:
    fresh.click("#to-operations")
    fresh.wait(f"{CARDS} === 5")
    fresh.click("#to-draw")
    scrapes = "performance.getEntriesByType('resource').filter(({ name }) => name.endsWith('/metrics')).length"
    before = fresh.run(scrapes)
    fresh.run("new Promise((done) => setTimeout(done, 4000))")
    assert fresh.run(scrapes) == before


def test_an_audit_is_shown_with_its_intervals(fresh: Page) -> None:
    band = (
        '{similarity: "all", skip: "all", hits: 1200, bad: 30, good: 6, bad_hit_rate: 0.02, lower: 0.01, upper: 0.04}'
    )
    body = f"{{enabled: true, share: 0.02, bound: 0.05, frozen: false, queued: 1, bands: [{band}]}}"
    fresh.run(f"""(() => {{
        const real = window.fetch;
        window.fetch = (path, options) => path === '/v1/cache/audit'
            ? Promise.resolve(new Response(JSON.stringify({body}))) : real(path, options);
    }})()""")
    fresh.click("#to-operations")
    fresh.wait("!!document.querySelector('#audit table')")
    assert "2.0% bad of 1,200 audited" in fresh.text("#audit")
    assert "95% interval: 1.0% to 4.0%" in fresh.text("#audit")
    assert "2.0% (1.0% to 4.0%)" in fresh.text("#audit tbody")
    assert "bound 5.0%" in fresh.run("document.querySelector('#audit .interval').ariaLabel")
