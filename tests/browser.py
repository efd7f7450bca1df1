"""A page in headless Chromium, driven over its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request
from contextlib import contextmanager

import pytest
from websockets.sync.client import connect

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
)


class Page:
    """One page: `evaluate` runs JavaScript in it, `console` holds what it complained about."""

    def __init__(self, socket):
        self.socket, self.numbers, self.console = socket, itertools.count(1), []

    def call(self, method, **parameters):
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self._note(message)

    def _note(self, message):
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(parameters["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
            self.console.append(json.dumps(parameters["args"]))
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.console.append(json.dumps(parameters["entry"]))

    def open(self, url):
        for domain in ("Page", "Runtime", "Log", "DOM"):
            self.call(f"{domain}.enable")
        self.call("Page.navigate", url=url)

    def evaluate(self, script):
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, script, seconds=120):
        """The script's value as soon as it is true."""
        until = time.monotonic() + seconds
        while not (value := self.evaluate(script)):
            assert time.monotonic() < until, f"not true in {seconds} s: {script}"
            time.sleep(0.1)
        return value

    def choose_files(self, selector, *paths):
        """Put files into an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(path) for path in paths])

    def click(self, selector):
        self.evaluate(f"document.querySelector({selector!r}).click()")

    def press(self, element):
        """A real click with the left button on what the script `element` finds."""
        self.evaluate(f"{element}.scrollIntoView({{block: 'center'}})")
        box = f"(r => [r.left + r.width / 2, r.top + r.height / 2])({element}.getBoundingClientRect())"
        x, y = self.evaluate(box)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, start, end):
        """A stroke with the left button."""
        points = [start, tuple((a + b) / 2 for a, b in zip(start, end, strict=True)), end, end]
        kinds = ("mousePressed", "mouseMoved", "mouseMoved", "mouseReleased")
        for kind, (x, y) in zip(kinds, points, strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            time.sleep(0.2)

    def look(self, width, height, *, dark=False, touch=False):
        """The size of the window and the colours that the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=touch)
        wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[wanted])

    def swipe(self, start, end):
        """With a finger."""
        points = [{"x": x, "y": y} for x, y in (start, end)]
        for kind, touched in (("touchStart", points[:1]), ("touchMove", points[1:]), ("touchEnd", [])):
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=touched)

    def type(self, key, code):
        """One key that writes nothing."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path


@pytest.fixture
def page(tmp_path):
    """An empty page; skipped where there is no Chromium."""
    with opened(tmp_path / "chromium") as found:
        yield found


@contextmanager
def opened(profile):
    """The same, with a profile in that folder."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    own = ("--remote-debugging-port=0", f"--user-data-dir={profile}", "--window-size=1500,1250")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([chromium, *FLAGS.split(), "--remote-allow-origins=*", *own, "about:blank"], **quiet)
    try:
        with connect(_address(profile / "DevToolsActivePort"), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


def _address(chosen):
    """Of the page, by the port that Chromium has chosen."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            port = chosen.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=2) as answer:
                pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError):
            time.sleep(0.2)
    raise AssertionError("Chromium did not start")
