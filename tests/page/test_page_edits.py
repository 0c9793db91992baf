"""Pictures drawn over a given one, from the page: how it comes in, which part, how much, and what goes wrong."""

import re
from pathlib import Path

import pytest
from browser import Page
from page_checks import serious_findings
from page_doings import DONE, ENTRIES, begin_from, draw, look_for, open_entry, press_button, tab_to
from page_pictures import TEAL, mask_file, picture_file
from service_live import Client

CELLS = "[...document.querySelectorAll('#strip .cell')].map((one) => one.className.replace(/cell ?/, ''))"
DRAWN = """(async () => {
    const bitmap = await createImageBitmap(document.querySelector('#picture'));
    const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
    canvas.getContext('2d').drawImage(bitmap, 0, 0);
    const { data } = canvas.getContext('2d').getImageData(0, 0, bitmap.width, bitmap.height);
    const rows = Array.from({ length: bitmap.height }, (_, y) => Array.from({ length: bitmap.width },
        (_, x) => [...data.slice(4 * (y * bitmap.width + x), 4 * (y * bitmap.width + x) + 3)]));
    return rows;
})()"""


def set_field(page: Page, selector: str, value: str) -> None:
    """Set a slider or a list, as a person's last move on it does."""
    element = f"const e = document.querySelector('{selector}'); e.value = '{value}';"
    page.run(f"(() => {{ {element} e.dispatchEvent(new Event('input', {{ bubbles: true }})); }})()")


def drawn(page: Page) -> list[list[tuple[int, ...]]]:
    """Return the pixels of the picture shown, by row."""
    page.wait("document.querySelector('#picture').complete")
    return [[tuple(pixel) for pixel in row] for row in page.run(DRAWN)]


def facts(page: Page) -> str:
    return " ".join(page.text("#facts").split())


def test_an_uploaded_picture_is_drawn_over(fresh: Page, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    assert "32 × 32 pixels" in fresh.text("#given-facts")
    assert fresh.text("#strength-value") == "80%"
    assert "The last 6 of 8 steps are run on it." in fresh.text("#strength-note")
    set_field(fresh, "#strength", "0.5")
    assert fresh.text("#strength-value") == "50%"
    draw(fresh, "a red ball over teal")
    assert fresh.text("#verdict-line") == "Over the given picture: all 4 steps run."
    assert "Exact repeats need a seed." in fresh.text("#verdict-why")
    assert fresh.run(CELLS) == ["given"] * 4 + ["done"] * 4
    assert fresh.text("#legend-left") == "Enters after step 4"
    assert "Strength 50% Entered after step 4 of 8" in facts(fresh)
    fresh.wait("document.querySelectorAll('#lineage figure').length === 2")
    assert "The given picture" in fresh.text("#lineage")
    assert all(pixel != TEAL for row in drawn(fresh) for pixel in row)
    assert fresh.problems == []


def test_the_same_edit_with_its_seed_is_returned_again(fresh: Page, live_client: Client, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    draw(fresh, "a blue ball over teal", seed="31")
    live_client.settle()
    draw(fresh, "a blue ball over teal", seed="31")
    assert fresh.text("#verdict-line") == "Drawn before: the stored picture, all 6 steps saved."
    assert fresh.run(CELLS) == ["given"] * 2 + ["skip"] * 6
    assert fresh.text("#legend-left") == "Head start: 6 steps"


def test_a_painted_part_is_drawn_anew_and_the_rest_is_kept(fresh: Page, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    fresh.click("#masking summary")
    fresh.wait("document.querySelector('#paint').hasAttribute('data-masking')")
    assert "all of it" in fresh.text("#mask-sum")
    set_field(fresh, "#brush", "25")
    fresh.drag("#mask-canvas", (0.75, 0.0), (0.75, 1.0))
    assert re.fullmatch(r"2\d% of it", fresh.text("#mask-sum"))
    draw(fresh, "a red ball on the right")
    rows = drawn(fresh)
    assert all(row[x] == TEAL for row in rows for x in range(18))
    assert all(row[24] != TEAL for row in rows)
    assert "where it was marked" in facts(fresh)
    fresh.click("#brush-unmark")
    fresh.drag("#mask-canvas", (0.75, 0.0), (0.75, 1.0))
    assert "all of it" in fresh.text("#mask-sum")
    assert fresh.problems == []


def test_a_mask_file_is_shown_and_sent(fresh: Page, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    fresh.click("#masking summary")
    fresh.choose("#mask", mask_file(tmp_path))
    fresh.wait("document.querySelector('#mask-canvas').ariaLabel.includes('50%')")
    assert fresh.text("#mask-sum") == "as in mask-32x32.png"
    draw(fresh, "a red cube on the right")
    assert all(row[15] == TEAL and row[16] != TEAL for row in drawn(fresh))
    fresh.click("#mask-invert")
    assert fresh.text("#mask-sum") == "50% of it"
    assert fresh.run("document.querySelector('#mask').files.length") == 0
    draw(fresh, "a red cube on the left")
    assert all(row[15] != TEAL and row[16] == TEAL for row in drawn(fresh))


def test_with_the_keyboard_alone_from_a_drawn_picture_to_a_part_of_it(fresh: Page) -> None:
    fresh.run("document.activeElement.blur()")
    tab_to(fresh, "prompt")
    fresh.send("Input.insertText", text="a keyed drum in a hall")
    fresh.press("Enter", ctrl=True)
    fresh.wait(DONE, timeout=60)
    before = drawn(fresh)
    tab_to(fresh, "use")
    fresh.press("Enter")
    fresh.wait("document.activeElement.id === 'strength' && !document.querySelector('#given-facts').hidden")
    for _ in range(4):
        fresh.press("ArrowRight")
    assert fresh.text("#strength-value") == "100%"
    for _ in range(3):
        fresh.press("Tab")
        if fresh.run("document.activeElement.tagName") == "SUMMARY":
            break
    fresh.press("Enter")
    fresh.wait("document.querySelector('#masking').open")
    for side, value in (("left", "16"), ("top", "0"), ("width", "16"), ("height", "32")):
        tab_to(fresh, f"mask-{side}")
        fresh.send("Input.insertText", text=value)
    fresh.press("Enter")
    assert fresh.text("#mask-sum") == "50% of it"
    assert "50% of the picture is marked" in fresh.run("document.querySelector('#announce').textContent")
    fresh.press("Enter", ctrl=True)
    fresh.wait(f"{DONE} && document.querySelector('#facts').innerText.includes('where it was marked')", timeout=60)
    after = drawn(fresh)
    assert [row[:16] for row in after] == [row[:16] for row in before]
    assert [row[16:] for row in after] != [row[16:] for row in before]
    assert fresh.problems == []


def test_a_rectangle_outside_the_picture_is_refused_in_place(fresh: Page, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    fresh.click("#masking summary")
    fresh.fill("#mask-left", "32")
    fresh.click("#rectangle-mark")
    assert fresh.text("#rectangle-error") == "The picture has 32 by 32 pixels: this is not in it."
    fresh.fill("#mask-left", "8")
    fresh.click("#rectangle-mark")
    assert fresh.run("document.querySelector('#rectangle-error').hidden")
    assert fresh.text("#mask-sum") == "75% of it"


def test_a_dropped_picture_is_taken(fresh: Page, tmp_path: Path) -> None:
    fresh.drop("#stage", picture_file(tmp_path, (48, 32)))
    fresh.wait("!document.querySelector('#given-facts').hidden")
    assert fresh.run("document.querySelector('#from-edit').checked")
    assert fresh.run("document.querySelector('#given').files[0].name") == "teal-48x32.png"
    draw(fresh, "a wide red ball")
    assert fresh.run("document.querySelector('#picture').naturalWidth") == 48
    assert fresh.run("(({ width, height }) => width / height)(document.querySelector('#canvas'))") == pytest.approx(
        1.5, abs=0.01
    )


def test_a_variation_needs_no_words(fresh: Page, live_client: Client, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path), varied=True)
    assert fresh.text("#strength-value") == "60%"
    assert fresh.run("document.querySelector('#masking').hidden")
    fresh.fill("#prompt", "")
    fresh.click("#generate-over")
    fresh.wait(DONE, timeout=60)
    assert fresh.text("#verdict-line") == "Over the given picture: all 5 steps run."
    assert fresh.run("document.querySelector('#picture').alt") == "A variation of the given picture"
    assert fresh.run("document.querySelector('#near').hidden")
    live_client.settle()
    look_for(fresh, "")
    fresh.wait(f"{ENTRIES} > 0")
    assert fresh.text("#cache-list .what") == "without words"
    assert serious_findings(fresh) == []
    assert fresh.problems == []


def test_a_remembered_picture_is_used(fresh: Page, live_client: Client) -> None:
    live_client.draw("a tin whistle to be drawn over")
    live_client.settle()
    open_entry(fresh, "tin whistle to be drawn over")
    press_button(fresh, "#sheet", "Use its picture")
    fresh.wait("!document.querySelector('#given-facts').hidden")
    assert fresh.run("location.hash") == "#draw"
    assert fresh.run("document.querySelector('#prompt').value") == "a tin whistle to be drawn over"
    fresh.click("#generate-over")
    fresh.wait(DONE, timeout=60)
    assert "Over the given picture" in fresh.text("#verdict-line")


def test_an_edit_with_a_head_start_is_compared_with_the_same_in_full(
    fresh: Page, live_client: Client, tmp_path: Path
) -> None:
    begin_from(fresh, picture_file(tmp_path))
    set_field(fresh, "#mode", "approximate")
    draw(fresh, "a maple desk by a window, drawn over", seed="5")
    live_client.settle()
    draw(fresh, "the maple desk by a window, drawn over", seed="6")
    assert fresh.text("#verdict-line").startswith("Head start:")
    skipped = int(re.findall(r"(\d) of 6 steps skipped", fresh.text("#verdict-line"))[0])
    assert fresh.run(CELLS) == ["given"] * 2 + ["skip"] * skipped + ["done"] * (6 - skipped)
    fresh.wait("document.querySelectorAll('#lineage figure').length === 3")
    fresh.click("#compare")
    fresh.wait("document.querySelectorAll('#lineage figure').length === 4", timeout=60)
    assert "same prompt and seed, all 6 steps" in fresh.text("#lineage figure:last-child")
    assert fresh.problems == []


def test_reload_comes_back_to_an_edit_on_its_way(fresh: Page, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    fresh.run("document.querySelector('#settings').open = true")
    fresh.fill("#steps", "200")
    fresh.fill("#prompt", "a slow ball over teal")
    fresh.click("#generate-over")
    fresh.wait("document.querySelectorAll('.cell.done').length > 2")
    fresh.send("Page.reload")
    fresh.wait("document.querySelector('#stage')?.dataset.state === 'running'")
    fresh.wait(DONE, timeout=120)
    assert fresh.text("#verdict-line") == "Over the given picture: all 160 steps run."
    assert fresh.run("document.querySelectorAll('#strip .given').length") == 40


def refused(page: Page, field: str) -> str:
    """Ask for the picture, and return what is said beside the field at fault."""
    page.fill("#prompt", "a ball that is not drawn")
    page.click("#generate-over")
    page.wait(f"!document.querySelector('#{field}-error').hidden && document.querySelector('#stop').hidden")
    assert page.run("document.activeElement.id") == field
    assert page.run(f"document.querySelector('#{field}').getAttribute('aria-invalid')") == "true"
    return page.text(f"#{field}-error")


def test_no_picture_is_asked_for(fresh: Page) -> None:
    fresh.click("#from-edit")
    assert refused(fresh, "given") == "Choose the picture to begin from."


def test_what_is_no_picture_is_said_beside_it(fresh: Page, tmp_path: Path) -> None:
    path = tmp_path / "notes.png"
    path.write_text("no picture")
    begin_from(fresh, path)
    assert "cannot show it" in fresh.text("#given-facts")
    assert refused(fresh, "given") == "Not a readable PNG, JPEG or WebP picture"


def test_what_is_too_large_is_said_beside_it(fresh: Page, tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(bytes(17 * 1024**2))
    begin_from(fresh, path)
    assert refused(fresh, "given") == "The request body is too large. Choose a smaller picture."


def test_a_mask_of_another_size_is_said_beside_it(fresh: Page, tmp_path: Path) -> None:
    begin_from(fresh, picture_file(tmp_path))
    fresh.click("#masking summary")
    fresh.choose("#mask", mask_file(tmp_path, (16, 16)))
    fresh.wait("document.querySelector('#mask-sum').textContent.includes('mask-16x16.png')")
    assert refused(fresh, "mask") == "Must have the size of the picture"


def test_a_full_service_is_tried_again_when_it_says(fresh: Page, tmp_path: Path) -> None:
    fresh.run("""(() => {
        const real = window.fetch;
        const message = 'too many pictures are being sent; try again in 1 s';
        const body = JSON.stringify({ error: { message, param: null, code: 'uploads_full' } });
        window.fetch = (path, options) => {
            if (path !== '/v1/images/edits') return real(path, options);
            window.fetch = real;
            const headers = { 'Retry-After': '1' };
            return Promise.resolve(new Response(body, { status: 429, headers }));
        };
    })()""")
    begin_from(fresh, picture_file(tmp_path))
    assert refused(fresh, "given").startswith("Too many pictures are being sent; try again in 1 s")
    assert fresh.run("document.querySelector('#given-error button').disabled")
    fresh.wait("!document.querySelector('#given-error button').disabled")
    fresh.click("#given-error button")
    fresh.wait(DONE, timeout=60)
    assert fresh.run("document.querySelector('#given-error').hidden")
