"""The real page of the real service in a real browser."""

import re
from pathlib import Path

import pytest
from browser import Page
from page_checks import hangs_over, poor_contrast
from page_doings import DONE, begin, draw
from service_live import Client, LiveServer

PICTURE = """(() => {
    const canvas = document.querySelector('#canvas'), image = document.querySelector('#picture');
    const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    return { shown: image.naturalWidth, alt: image.alt, side: canvas.width, colours: new Set(pixels).size };
})()"""


def cells(page: Page, kind: str) -> int:
    return int(page.run(f"document.querySelectorAll('#strip .cell.{kind}').length"))


def test_prompt_in_picture_and_verdict_out_then_a_rewording_starts_from_it(
    fresh: Page, live_client: Client, shots: Path
) -> None:
    # A guidance of its own is a partition of its own: other tests share the service and draw similar things.
    fresh.run("document.querySelector('#settings').open = true")
    fresh.fill("#guidance", "11")
    fresh.fill("#prompt", "a large red ball in a green meadow")
    fresh.press("Enter", ctrl=True)
    fresh.wait(DONE, timeout=60)
    picture = fresh.run(PICTURE)
    assert picture["shown"] == 32
    assert "red ball" in picture["alt"]
    assert picture["side"] > 400
    assert picture["colours"] > 20
    assert "steps run" in fresh.text("#verdict-line")
    assert cells(fresh, "done") == 8
    live_client.settle()

    draw(fresh, "a big red ball in a green meadow")
    line = fresh.text("#verdict-line")
    assert re.fullmatch(r"Head start: \d of 8 steps skipped, from an earlier picture, similarity 0\.\d\d\.", line)
    assert cells(fresh, "skip") >= 1
    assert cells(fresh, "skip") + cells(fresh, "done") == 8
    fresh.wait("document.querySelectorAll('#lineage figure').length === 2")
    assert "a large red ball in a green meadow" in fresh.text("#lineage figure")
    assert fresh.run("[...document.querySelectorAll('#lineage mark')].map(m => m.textContent)") == ["big"]
    fresh.wait("document.querySelector('#lineage canvas').width > 40")
    assert line in fresh.run("document.querySelector('#announce').textContent")

    fresh.wait("Number(document.querySelector('#total-approx').textContent) >= 1")
    assert fresh.text("#total-share").endswith("%")
    fresh.wait("[...document.querySelectorAll('#recent-list img')].length >= 2")
    fresh.screenshot(shots / "page.png", whole=True)
    assert fresh.problems == []


def test_full_run_for_comparison(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a small blue star above a yellow ring")
    live_client.settle()
    draw(fresh, "a small blue star over a yellow ring")
    fresh.click("#compare")
    fresh.wait("document.querySelectorAll('#lineage figure').length === 3", timeout=60)
    assert "same prompt and seed, all 8 steps" in fresh.text("#lineage figure:last-child")
    assert fresh.run("document.querySelector('#compare').hidden")
    assert fresh.problems == []


def test_seeded_repeat_returns_the_stored_picture(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a pink heart on snow", seed="7")
    assert "exact repeats only" in fresh.text("#mode-note")
    live_client.settle()
    draw(fresh, "a pink heart on snow", seed="7")
    assert fresh.text("#verdict-line") == "Drawn before: the stored picture, all 8 steps saved."
    assert cells(fresh, "skip") == 8


def test_recent_picture_gives_its_prompt_back(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a white moon at night")
    live_client.settle()
    fresh.wait(
        "[...document.querySelectorAll('#recent-list span')].some(s => s.textContent === 'a white moon at night')"
    )
    fresh.fill("#prompt", "")
    fresh.click("#recent-list button")
    assert fresh.run("document.querySelector('#prompt').value") == "a white moon at night"
    assert fresh.run("document.activeElement.id") == "prompt"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("steps", "9999", "less than or equal to 200"),
        ("guidance", "99", "less than or equal to 30"),
        ("seed", "soup", "whole number"),
    ],
)
def test_error_stands_beside_the_field_it_is_about(fresh: Page, field: str, value: str, message: str) -> None:
    fresh.run("document.querySelector('#settings').open = true")
    fresh.fill(f"#{field}", value)
    fresh.fill("#prompt", "a red ball")
    fresh.click("#generate")
    fresh.wait(f"!document.querySelector('#{field}-error').hidden")
    assert message in fresh.text(f"#{field}-error")
    assert fresh.run("document.activeElement.id") == field
    assert fresh.run(f"document.querySelector('#{field}').getAttribute('aria-invalid')") == "true"
    assert not fresh.run("document.querySelector('#generate').hidden")


def test_blank_prompt_asks_for_one_without_a_request(fresh: Page) -> None:
    fresh.fill("#prompt", "   ")
    fresh.click("#generate")
    fresh.wait("!document.querySelector('#prompt-error').hidden")
    assert "what it should draw" in fresh.text("#prompt-error")


def test_stop_cancels_and_leaves_the_page_usable(fresh: Page, live_service: LiveServer, live_client: Client) -> None:
    def cancelled() -> float:  # on a busy machine the last step may be over before the browser gets to it
        return sum(live_client.metric("headstart_cancelled_total", where=place) for place in ("denoise", "encode"))

    before = cancelled()
    begin(fresh, "a green box in the desert", steps="200")
    fresh.wait("document.querySelectorAll('.cell.done').length > 2")
    fresh.press("Escape")
    fresh.wait("document.querySelector('#stop').hidden")
    assert fresh.text("#easel-note") == "Stopped"
    live_service.wait(lambda: cancelled() > before, "cancelled")
    draw(fresh, "a green box in the desert", steps="8")


def test_reload_comes_back_to_the_picture_on_its_way(fresh: Page, live_service: LiveServer) -> None:
    begin(fresh, "a green box on the moon", steps="200")
    fresh.wait("document.querySelectorAll('.cell.done').length > 2")
    fresh.send("Page.reload")
    fresh.wait("document.querySelector('#stage')?.dataset.state === 'running'")
    assert fresh.run("document.querySelector('#prompt').value") == "a green box on the moon"
    fresh.wait(DONE, timeout=120)
    assert "200" in fresh.text("#verdict-line")
    fresh.wait("sessionStorage.getItem('headstart-drawing') === null")


def test_unreachable_service_says_so(fresh: Page) -> None:
    offline = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    fresh.send("Network.emulateNetworkConditions", offline=True, **offline)
    try:
        fresh.fill("#prompt", "a red ball")
        fresh.click("#generate")
        fresh.wait("!document.querySelector('#error').hidden")
        assert "cannot be reached" in fresh.text("#error")
    finally:
        fresh.send("Network.emulateNetworkConditions", offline=False, **offline)


@pytest.mark.parametrize("width", [320, 390, 768, 1280, 1920])
def test_nothing_hangs_over_the_edge(fresh: Page, width: int) -> None:
    fresh.screen(width, 800, mobile=width < 500)
    draw(fresh, "a very-long-word-" + "o" * 120 + " and a ball")
    assert not hangs_over(fresh, width)


def test_text_contrast_in_both_schemes(fresh: Page) -> None:
    draw(fresh, "a red ball on a beach")
    for scheme in ("light", "dark"):
        fresh.prefer(color_scheme=scheme, reduced_motion="reduce")
        assert poor_contrast(fresh) == [], scheme


def test_reduced_motion_stills_everything(fresh: Page) -> None:
    fresh.prefer(reduced_motion="reduce")
    draw(fresh, "a red ball on a beach")
    assert fresh.run("document.getAnimations().length") == 0


def test_keyboard_alone_reaches_every_control_in_order(fresh: Page) -> None:
    fresh.run("document.activeElement.blur()")
    seen = []
    for _ in range(12):
        fresh.press("Tab")
        seen.append(fresh.run("document.activeElement.id || document.activeElement.className"))
    assert seen[:6] == ["skip-link", "to-draw", "to-cache", "to-operations", "prompt", "generate"]
    assert seen.count("chip") >= 4


def test_page_loads_nothing_from_elsewhere(fresh: Page, live_service: LiveServer) -> None:
    origins = fresh.run("performance.getEntriesByType('resource').map(entry => new URL(entry.name).origin)")
    assert set(origins) == {live_service.url}


def test_feature_caching_is_chosen_by_name_and_its_work_is_told(fresh: Page) -> None:
    fresh.wait("document.querySelectorAll('#features option').length > 3")
    fresh.run("document.querySelector('#settings').open = true")
    for name, value in (("features", "deepcache"), ("mode", "off")):
        chosen = f"const e = document.querySelector('#{name}'); e.value = '{value}';"
        fresh.run(f"(() => {{ {chosen} e.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()")
    draw(fresh, "a yellow cone behind a blue cube")
    assert "feature caching: deepcache" in fresh.text("#settings-sum")
    assert re.search(r"network computed\s*\d\d%", fresh.text("#facts"), re.IGNORECASE)
