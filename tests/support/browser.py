"""A headless Chromium and one page in it, over its DevTools protocol on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import threading
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from harness import RUN_SECONDS
from websockets.sync.client import connect

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from websockets.sync.client import ClientConnection

CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
_COMPLAINTS = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")


class Page:
    """One page; `complaints` are what its console and the content policy said."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._number = 0
        self._loaded = False
        self.complaints: list[dict[str, Any]] = []
        for domain in ("Log", "Runtime", "Page"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._connection.send(json.dumps(message))
        while (answer := self._receive()).get("id") != self._number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str, *, width: int = 1440, scripts: bool = True) -> None:
        """Load an address and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=1000, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._loaded = False
        self.call("Page.navigate", url=address)
        while not self._loaded:
            self._receive()

    def ask(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def drag(self, selector: str, begin: float, end: float) -> None:
        """Drag from one share of an element's width to another."""
        box = json.loads(
            self.ask(
                f"(one => {{ one.scrollIntoView();"
                f" return JSON.stringify(one.getBoundingClientRect()); }})"
                f"(document.querySelector({selector!r}))"
            )
        )
        for kind, share in (
            ("mousePressed", begin), ("mouseMoved", end), ("mouseReleased", end),
        ):  # fmt: skip
            self.call(
                "Input.dispatchMouseEvent",
                type=kind, button="left", buttons=1, clickCount=1,
                x=box["x"] + box["width"] * share, y=box["y"] + box["height"] / 2,
            )  # fmt: skip

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv(timeout=RUN_SECONDS))
        self._loaded |= message.get("method") == "Page.loadEventFired"
        if message.get("method") in _COMPLAINTS:
            self.complaints.append(message)
        return message


@contextlib.contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start Chromium with a profile of its own; it and its processes end with the block."""
    assert CHROMIUM is not None
    started = subprocess.Popen(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0",
         f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert started.stderr is not None
    bound = threading.Timer(2 * RUN_SECONDS, os.killpg, (started.pid, signal.SIGKILL))
    bound.start()
    try:
        line = next(line for line in started.stderr if "listening on ws://" in line)
        host = line.partition("ws://")[2].partition("/")[0]
        with urllib.request.urlopen(f"http://{host}/json", timeout=RUN_SECONDS) as answer:
            targets = json.load(answer)
        address = next(one for one in targets if one["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None, proxy=None) as connection:
            yield Page(connection)
    finally:
        bound.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(started.pid, signal.SIGKILL)
        started.stderr.close()
        started.wait()
