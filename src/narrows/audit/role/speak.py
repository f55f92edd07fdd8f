"""What the auditor says: one verdict a period, of one size, to whoever is at the gate's port.

A gate dials; nothing here ever dials. Each period one verdict leaves on a grid that nothing moves:
not work, nor whether there is anything to say. What comes in are views of a ledger, bounded and not
believed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable

from narrows.errors import InputError
from narrows.wire.onereader import OneReaderServer
from narrows.wire.verdict import LedgerView, ViewReader

READ_BYTES = 1 << 16
MAX_VIEWS = 64
Views = dict[bytes, LedgerView]
Compose = Callable[[Views], bytes]
Clock = Callable[[], float]
"""Seconds that only grow."""


class VerdictServer(OneReaderServer):
    """``compose``: a verdict of the views that have come, from which it
    takes those that it used."""

    def __init__(self, compose: Compose, period_s: float, clock: Clock = time.monotonic) -> None:
        super().__init__(self._speak)
        self._compose, self._period_s, self._clock = compose, period_s, clock

    async def _speak(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        views: Views = {}
        listening = asyncio.create_task(_listen(reader, views))
        try:
            await self._send(writer, listening, views)
        finally:
            listening.cancel()

    async def _send(
        self, writer: asyncio.StreamWriter, listening: asyncio.Task[None], views: Views
    ) -> None:
        while True:
            wait_s = self._period_s - self._clock() % self._period_s
            await asyncio.wait({listening}, timeout=wait_s)
            if listening.done():
                return
            writer.write(self._compose(views))
            await writer.drain()


async def _listen(reader: asyncio.StreamReader, views: Views) -> None:
    """Until the reader at the other end goes, or says what is no view."""
    parser = ViewReader()
    with contextlib.suppress(InputError, OSError):
        while data := await reader.read(READ_BYTES):
            for view in parser.feed(data):
                if view.tag in views or len(views) < MAX_VIEWS:
                    views[view.tag] = view
