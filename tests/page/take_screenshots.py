"""Take the README's screenshots of a running service: `python tests/page/take_screenshots.py http://127.0.0.1:8000`.

Start the service with an empty HEADSTART_DATA_DIR on a quiet machine, so that times and totals mean something.
"""

import json
import sys
import time
import urllib.request
from pathlib import Path

from browser import Page, chromium, find_chromium
from page_doings import look_for
from PIL import Image

IMAGES = Path(__file__).parents[2] / "docs" / "images"
STOCK = (
    "a white moon at the top right in the night sky",
    "in the night sky, a white moon at the top right",
    "a large red ball in the middle on a meadow",
    "on a meadow, a large red ball in the middle",
    "a large purple ring in the centre, in the desert",
    "a big purple ring in the centre, in the desert",
)
SHOTS = {
    "headstart": (
        "light",
        "a pink heart to the left of a white moon at sunset",
        "a pink heart on the left of a white moon in a sunset sky",
    ),
    "headstart-dark": (
        "dark",
        "a large yellow star above a white moon at night",
        "a large yellow star over a white moon in the night sky",
    ),
}


NEAR = "at night, a large yellow star above a white moon"
COLOURS = 256  # a palette of its own for each picture keeps a file below 300 KB


def draw(page: Page, prompt: str) -> None:
    page.fill("#prompt", prompt)
    page.click("#generate")
    page.wait("document.querySelector('#stage').dataset.state === 'done'", timeout=300)
    time.sleep(2)


def shoot(page: Page, name: str) -> None:
    page.run("document.activeElement.blur(); scrollTo(0, 0)")
    page.send("Input.dispatchMouseEvent", type="mouseMoved", x=5, y=5)
    time.sleep(0.5)
    path = IMAGES / f"{name}.png"
    page.screenshot(path)
    with Image.open(path) as taken:
        whole = taken.convert("RGB")
        small = whole.quantize(palette=whole.quantize(COLOURS), dither=Image.Dither.FLOYDSTEINBERG)
    small.save(path, optimize=True)


def shoot_views(page: Page, url: str) -> None:
    """The other views, now that there is something to be seen in them."""
    page.prefer(color_scheme="light")
    look_for(page, NEAR, near=True)
    time.sleep(2)
    page.screen(1280, 720)
    shoot(page, "headstart-cache")
    page.screen(1280, 900)
    page.click("#to-operations")
    time.sleep(20)
    for seed in (3, 3, 4):
        body = json.dumps({"prompt": STOCK[0], "seed": seed}).encode()
        wish = urllib.request.Request(f"{url}/v1/images/generations", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(wish).close()
        time.sleep(5)
    shoot(page, "headstart-operations")


def main(url: str) -> None:
    path = find_chromium()
    if path is None:
        sys.exit("no Chromium on this machine")
    with chromium(path) as page:
        page.send("Emulation.setScrollbarsHidden", hidden=True)
        page.screen(1280, 1000)
        page.open(url)
        page.wait("document.querySelector('#service').dataset.state === 'ready'")
        for prompt in STOCK:
            draw(page, prompt)
        for name, (scheme, first, second) in SHOTS.items():
            page.prefer(color_scheme=scheme)
            draw(page, first)
            draw(page, second)
            shoot(page, name)
        shoot_views(page, url)


if __name__ == "__main__":
    main(sys.argv[1])
