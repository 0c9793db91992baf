"""A real headless Chromium, driven through its DevTools protocol: just what the page's tests need."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-port=0",
)


def find_chromium() -> str | None:
    """Path of a Chromium on this machine, or None; `CHROMIUM` overrides the search."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in NAMES if (path := shutil.which(name))), None)


class BrowserError(Exception):
    """The browser refused a command, a script threw, or a condition never came true."""


class Page:
    """One tab."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.problems: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, timeout: float = 30.0, **params: Any) -> dict[str, Any]:
        """Send one DevTools command and return its result; console errors on the way are kept."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": params}))
        deadline = time.monotonic() + timeout
        while True:
            message = json.loads(self._connection.recv(timeout=max(0.1, deadline - time.monotonic())))
            if message.get("id") != number:
                self._note(message)
            elif "error" in message:
                raise BrowserError(f"{method}: {message['error']['message']}")
            else:
                return dict(message["result"])

    def open(self, url: str) -> None:
        """Go to a page and wait until it is loaded."""
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, expression: str) -> Any:
        """Evaluate JavaScript (promises are awaited) and return its value."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raise BrowserError(details.get("exception", {}).get("description", details["text"]))
        return answer["result"].get("value")

    def wait(self, condition: str, timeout: float = 30.0) -> Any:
        """Wait until a JavaScript condition is truthy and return its value."""
        deadline = time.monotonic() + timeout
        while True:
            value = self.run(condition)
            if value:
                return value
            if time.monotonic() > deadline:
                raise BrowserError(f"never true within {timeout} s: {condition}; problems: {self.problems}")
            time.sleep(0.05)

    def text(self, selector: str) -> str:
        """Visible text of the first match."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def click(self, selector: str) -> None:
        """A real mouse click in the middle of the first match."""
        where = self._resting_place(selector)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=where[0], y=where[1], button="left", clickCount=1)

    def _resting_place(self, selector: str) -> list[float]:
        """Return the middle of the first match once it lies still on top: pictures that come in move the rest."""
        find = f"""(() => {{
            const element = document.querySelector({json.dumps(selector)});
            element.scrollIntoView({{block: "center", behavior: "instant"}});
            const box = element.getBoundingClientRect();
            const middle = [box.x + box.width / 2, box.y + box.height / 2];
            const top = document.elementFromPoint(...middle);
            return [...middle, !!top && (element.contains(top) || top.contains(element))];
        }})()"""
        deadline = time.monotonic() + 5.0
        seen = self.run(find)
        while time.monotonic() < deadline:
            time.sleep(0.05)
            before, seen = seen, self.run(find)
            if seen[2] and seen == before:
                break
        middle: list[float] = seen[:2]
        return middle

    def fill(self, selector: str, text: str) -> None:
        """Replace a field's text by typing into it."""
        self.run(f"(() => {{ const e = document.querySelector({json.dumps(selector)}); e.focus(); e.select(); }})()")
        if text:
            self.send("Input.insertText", text=text)
        else:
            self.press("Delete")

    def press(self, key: str, *, ctrl: bool = False) -> None:
        """Press one key, as a keyboard does."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "Delete": 46, " ": 32, "ArrowLeft": 37, "ArrowRight": 39}[key]
        shared = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 2 if ctrl else 0}
        typed = {"text": "\r"} if key == "Enter" else {}
        self.send("Input.dispatchKeyEvent", type="keyDown", **shared, **typed)
        self.send("Input.dispatchKeyEvent", type="keyUp", **shared)

    def choose(self, selector: str, path: Path) -> None:
        """Choose a file in a file field, as its dialog does."""
        found = self.send("Runtime.evaluate", expression=f"document.querySelector({json.dumps(selector)})")
        self.send("DOM.setFileInputFiles", files=[str(path)], objectId=found["result"]["objectId"])

    def drop(self, selector: str, path: Path) -> None:
        """Drag a file from outside over the middle of the first match, and drop it there."""
        x, y = self._resting_place(selector)
        data = {"items": [], "files": [str(path)], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self.send("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def drag(self, selector: str, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the mouse on the first match, move it and let go; places are shares of its width and height."""
        self._resting_place(selector)
        box = self.run(f"document.querySelector({json.dumps(selector)}).getBoundingClientRect().toJSON()")
        places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in (start, end)]
        for kind, (x, y) in zip(("Pressed", "Moved", "Released"), (places[0], places[1], places[1]), strict=True):
            held = {"button": "left", "buttons": 1, "clickCount": 1}
            self.send("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **held)

    def screen(self, width: int, height: int, *, scale: float = 1.0, mobile: bool = False) -> None:
        """Set the size of the screen."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        self.send("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def prefer(self, **features: str) -> None:
        """Emulate media preferences, such as `color_scheme="dark"` or `reduced_motion="reduce"`."""
        wishes = [{"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()]
        self.send("Emulation.setEmulatedMedia", features=wishes)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write a PNG of the screen, or of the whole page."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def _note(self, message: dict[str, Any]) -> None:
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.problems.append(str(message["params"]["exceptionDetails"]))
            case "Log.entryAdded" if message["params"]["entry"]["level"] == "error":
                entry = message["params"]["entry"]
                self.problems.append(f"{entry['text']} {entry.get('url', '')}")


@contextmanager
def chromium(path: str) -> Iterator[Page]:
    """Start a browser with an empty profile, yield its tab, stop it."""
    profile = tempfile.mkdtemp(prefix="headstart-chromium-")
    process = subprocess.Popen(
        [path, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        # Events are read only with an answer: while a test waits for something else, pings would go unanswered.
        with connect(_tab_address(Path(profile), process), max_size=None, ping_interval=None) as connection:
            yield Page(connection)
            with suppress(ConnectionClosed):
                connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
    finally:
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        shutil.rmtree(profile, ignore_errors=True)


def _tab_address(profile: Path, process: "subprocess.Popen[bytes]", timeout: float = 60.0) -> str:
    """The DevTools address of the first tab, once the browser has written its port."""
    deadline = time.monotonic() + timeout
    port_file = profile / "DevToolsActivePort"
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise BrowserError(f"Chromium ended at once with status {process.returncode}")
        if port_file.exists() and (lines := port_file.read_text().split()):
            tabs = _list_tabs(int(lines[0]))
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)
    raise BrowserError("Chromium did not open its DevTools port")


def _list_tabs(port: int) -> list[dict[str, Any]]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as answer:
        return [tab for tab in json.load(answer) if tab["type"] == "page"]
