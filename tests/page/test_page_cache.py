"""The explorer: what is remembered, what is near, how a picture came about, and forgetting."""

import io
import re

from browser import Page
from page_doings import DONE, ENTRIES, SHEET, draw, look_for, open_entry, press_button, tab_to
from PIL import Image
from service_live import Client

SAVED = r"It saved \d+ of the 8 steps of the one picture made from it\."


def test_an_entry_shows_what_it_holds_and_what_came_from_it(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a large violet lamp beside a well")
    live_client.settle()
    draw(fresh, "a big violet lamp beside a well")
    assert "Head start" in fresh.text("#verdict-line")
    live_client.settle()
    open_entry(fresh, "a large violet LAMP")
    sheet = fresh.text("#sheet-body")
    assert "a large violet lamp beside a well" in sheet
    assert re.search(r"Noise states held after steps .* of 8: a run may start from there\.", sheet)
    assert re.search(SAVED, sheet)
    assert "a big violet lamp beside a well" in fresh.text(".descendants")
    fresh.wait("document.querySelector('.entry img').naturalWidth === 32")
    press_button(fresh, ".descendants", "How it came about")
    fresh.wait("document.querySelector('#sheet-title').textContent === 'How it came about'")
    fresh.wait(SHEET)
    assert "a big violet lamp beside a well" in fresh.text(".descent")
    assert fresh.problems == []


def test_how_it_came_about_and_the_same_picture_again(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a copper kettle under a bridge")
    live_client.settle()
    fresh.click("#how")
    fresh.wait(SHEET)
    assert "From pure noise" in fresh.text(".sheet-lead") or "Head start" in fresh.text(".sheet-lead")
    press_button(fresh, ".again", "Draw it again, exactly so")
    fresh.wait("document.querySelector('.replayed').innerText.includes('Every pixel is the same')", timeout=60)
    fresh.press("Escape")
    fresh.wait("!document.querySelector('#sheet').open")
    assert fresh.run("document.activeElement.id") == "how"
    assert fresh.problems == []


def test_an_edit_is_told_as_one(fresh: Page, live_client: Client) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), "teal").save(buffer, "PNG")
    texts = {"prompt": "an edited jug on a shelf", "seed": "21", "num_inference_steps": "8", "strength": "0.5"}
    files = {"image": ("a.png", buffer.getvalue()), **{name: (None, text) for name, text in texts.items()}}
    for _ in range(2):
        assert live_client.http.post("/v1/images/edits", files=files).status_code == 200
        live_client.settle()
    open_entry(fresh, "an edited jug on a shelf")
    assert "It saved 4 of the 4 steps of the one picture made from it." in fresh.text("#sheet-body")
    press_button(fresh, ".descendants", "How it came about")
    fresh.wait("document.querySelector('#sheet-title').textContent === 'How it came about'")
    fresh.wait(SHEET)
    assert "all 4 steps saved" in fresh.text(".sheet-lead")
    sheet = fresh.text("#sheet-body")
    assert "Over the given picture" in fresh.text(".descent")
    assert "the last 4 of 8" in sheet
    assert "a given picture, strength 50%" in sheet
    assert "is not kept" in sheet
    assert fresh.run("document.querySelector('.again') === null")
    assert fresh.problems == []


def test_where_the_judge_looks_is_shown_or_said_why_not(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a copper kettle on a hill")
    live_client.settle()
    fresh.click("#where")
    fresh.wait("!!document.querySelector('.maps figcaption')", timeout=60)
    assert fresh.text(".maps figcaption").startswith("In this picture")
    # The tiny model ships no judge: 409, in words.
    assert len(fresh.text(".maps figcaption span")) > 10


def test_neighbours_of_a_prompt_with_what_would_become_of_it(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a silver spoon in a red bowl")
    live_client.settle()
    look_for(fresh, "a silver spoon in a deep red bowl", near=True)
    fresh.wait("!!document.querySelector('.bar')")
    assert "it could get a head start" in fresh.text("#cache-sum")
    nearest = fresh.text("#cache-list button")
    assert "a silver spoon in a red bowl" in nearest
    assert re.search(r"similarity 0\.\d\d", nearest)
    assert "would give a head start" in nearest


def test_a_result_leads_to_its_neighbours_and_an_entry_back_to_its_prompt(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a wooden oar on a lake")
    live_client.settle()
    fresh.click("#near")
    fresh.wait(f"{ENTRIES} > 0")
    assert fresh.run("location.hash") == "#cache"
    assert fresh.run("document.querySelector('#find').value") == "a wooden oar on a lake"
    fresh.click("#cache-list button")
    fresh.wait(SHEET)
    press_button(fresh, "#sheet", "Use its prompt")
    fresh.wait("document.activeElement.id === 'prompt'")
    assert fresh.run("document.querySelector('#prompt').value") == "a wooden oar on a lake"


def test_deleting_asks_first_and_then_forgets(fresh: Page, live_client: Client) -> None:
    draw(fresh, "a brass bell to be forgotten")
    live_client.settle()
    open_entry(fresh, "bell to be forgotten")
    press_button(fresh, "#sheet", "Delete it")
    fresh.wait("document.activeElement.textContent === 'Delete'")
    press_button(fresh, "#sheet", "Keep it")
    fresh.wait("document.activeElement.textContent === 'Delete it'")
    press_button(fresh, "#sheet", "Delete it")
    press_button(fresh, "#sheet", "Delete")
    fresh.wait("!document.querySelector('#sheet').open")
    fresh.wait(f"{ENTRIES} === 0")
    assert fresh.run("document.activeElement.id") == "cache-title"
    found = live_client.http.get("/v1/cache/entries", params={"prompt": "bell to be forgotten"}).json()
    assert found["data"] == []
    look_for(fresh, "bell to be forgotten")
    assert fresh.text("#cache-sum") == "No remembered prompt has these words."
    assert fresh.problems == []


def test_pages_of_entries_follow_each_other(fresh: Page, live_client: Client) -> None:
    for number in range(26):
        live_client.draw(f"a paged explorer tile {number}", num_inference_steps=1, guidance_scale=9.0)
    live_client.settle()
    look_for(fresh, "paged explorer tile")
    fresh.wait(f"{ENTRIES} === 24")
    fresh.click("#cache-more")
    fresh.wait(f"{ENTRIES} === 26")
    assert fresh.run("document.querySelector('#cache-more').hidden")
    prompts = fresh.run("[...document.querySelectorAll('#cache-list .what')].map((one) => one.textContent)")
    assert prompts == [f"a paged explorer tile {number}" for number in reversed(range(26))]


def test_with_the_keyboard_alone_from_the_prompt_to_an_entry_and_back(fresh: Page, live_client: Client) -> None:
    fresh.run("document.activeElement.blur()")
    tab_to(fresh, "prompt")
    fresh.send("Input.insertText", text="a keyed harp by the sea")
    fresh.press("Enter", ctrl=True)
    fresh.wait(DONE, timeout=60)
    live_client.settle()
    tab_to(fresh, "near")
    fresh.press("Enter")
    fresh.wait(f"{ENTRIES} > 0 && document.activeElement.id === 'cache-title'")
    for _ in range(12):
        fresh.press("Tab")
        if fresh.run("!!document.activeElement.closest('#cache-list')"):
            break
    fresh.press("Enter")
    fresh.wait(SHEET)
    assert "a keyed harp by the sea" in fresh.text("#sheet-body")
    assert fresh.run("!!document.activeElement.closest('#sheet')")
    fresh.press("Escape")
    fresh.wait("!document.querySelector('#sheet').open")
    assert fresh.run("!!document.activeElement.closest('#cache-list')")
    assert fresh.problems == []
