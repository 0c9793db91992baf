"""What a person does on the page."""

from pathlib import Path

from browser import Page

DONE = "document.querySelector('#stage').dataset.state === 'done'"
SHEET = (
    "document.querySelector('#sheet').open && !document.querySelector('#sheet-body').innerText.includes('Loading')"
)
ENTRIES = "document.querySelectorAll('#cache-list li').length"


def begin(page: Page, prompt: str, **fields: str) -> None:
    """Ask for a picture."""
    for name, value in fields.items():
        page.run("document.querySelector('#settings').open = true")
        page.fill(f"#{name}", value)
    page.fill("#prompt", prompt)
    page.click("#generate")


def draw(page: Page, prompt: str, **fields: str) -> None:
    """Have a picture drawn and wait for it."""
    begin(page, prompt, **fields)
    page.wait(DONE, timeout=60)


def look_for(page: Page, prompt: str, *, near: bool = False) -> None:
    """Look for entries in the explorer."""
    if page.run("document.querySelector('#view-cache').hidden"):
        page.click("#to-cache")
        page.wait("!document.querySelector('#view-cache').hidden")
    page.fill("#find", prompt)
    page.click("#find-near" if near else "#find-words")
    page.click("#find-form button")
    page.wait("!document.querySelector('#cache-list').hasAttribute('aria-busy')")


def open_entry(page: Page, prompt: str) -> None:
    """Open the newest entry of a prompt."""
    look_for(page, prompt)
    page.wait(f"{ENTRIES} > 0")
    page.click("#cache-list button")
    page.wait(SHEET)


def press_button(page: Page, inside: str, text: str) -> None:
    """Click the button of this text."""
    found = f"[...document.querySelectorAll('{inside} button')].find((one) => one.textContent === '{text}')"
    page.wait(f"!!{found}")
    page.run(f"{found}.setAttribute('data-pressed', '')")
    page.click(f"{inside} button[data-pressed]")
    page.run("document.querySelector('[data-pressed]')?.removeAttribute('data-pressed')")


def begin_from(page: Page, path: Path, *, varied: bool = False) -> None:
    """Have the next picture begin from a file."""
    page.click("#from-variation" if varied else "#from-edit")
    page.choose("#given", path)
    page.wait("!document.querySelector('#given-facts').hidden")


def tab_to(page: Page, identity: str, most: int = 60) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(most):
        if page.run("document.activeElement.id") == identity:
            return
        page.press("Tab")
    raise AssertionError(f"Tab never reached {identity}")
