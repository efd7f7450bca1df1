"""A page in headless Chromium, driven over its DevTools protocol."""

import base64
import itertools
import json
import shutil
import subprocess
import time
import urllib.request

import pytest
from host_process import free_port
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
        points = [start, tuple((a + b) / 2 for a, b in zip(start, end, strict=True)), end]
        for kind, (x, y) in zip(("mousePressed", "mouseMoved", "mouseReleased"), points, strict=True):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)
            time.sleep(0.2)

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
        return path


@pytest.fixture
def page(tmp_path):
    """An empty page; skipped where there is no Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")
    port = free_port()
    own = (f"--remote-debugging-port={port}", f"--user-data-dir={tmp_path / 'chromium'}", "--window-size=1500,1250")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen([chromium, *FLAGS.split(), "--remote-allow-origins=*", *own, "about:blank"], **quiet)
    try:
        with connect(_address(port), max_size=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(20)


def _address(port):
    for _ in range(100):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=2) as answer:
                pages = [tab for tab in json.load(answer) if tab["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError):
            time.sleep(0.2)
    raise AssertionError("Chromium did not start")
