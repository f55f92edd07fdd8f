"""Chromium over its debugging protocol: real pages in a real browser (Debian: chromium)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
WITHOUT = "needs Chromium (apt-get install chromium)"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
]  # fmt: skip


class Page:
    """One tab. ``events``: what went wrong, what was asked."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._number = 0
        self.events: list[tuple[str, dict[str, Any]]] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        await self._socket.send_json({"id": self._number, "method": method, "params": parameters})
        while True:
            message = json.loads((await self._socket.receive()).data)
            if message.get("id") == self._number:
                assert "error" not in message, message
                return dict(message["result"])
            self.events.append((message["method"], message["params"]))

    async def value(self, expression: str, wait: bool = False) -> Any:
        """``wait``: for the promise that the expression is."""
        found = await self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=wait
        )
        return found["result"].get("value")


def _port(file: Path, browser: subprocess.Popen[bytes]) -> str:
    """The port that Chromium chose, once it has written it down."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and browser.poll() is None:
        if file.exists() and (lines := file.read_text().splitlines()):
            return lines[0]
        time.sleep(0.05)
    raise AssertionError("Chromium did not start")


@contextmanager
def chromium(profile: Path) -> Iterator[str]:
    """A browser's debugging port."""
    browser = subprocess.Popen(
        [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # it has children
    )
    try:
        yield _port(profile / "DevToolsActivePort", browser)
    finally:
        os.killpg(browser.pid, signal.SIGKILL)
        browser.wait()


async def tab(port: str) -> str:
    """Where its tab is spoken to."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/json") as answer,
    ):
        tabs = await answer.json()
    return str(next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page"))
