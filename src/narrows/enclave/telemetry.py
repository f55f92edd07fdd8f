"""The enclave's logs and figures, for whoever reads them through the gate.

They leave like everything else: over a gate port of their own, counted against an account of
their own (law 8). One TCP connection gets a raw deflate stream of text lines, sent at fixed
intervals and only when there is something new; reading is pulled from outside, so an enclave
without a reader sends nothing. Lines are short, the memory is a ring.
"""

from __future__ import annotations

import asyncio
import collections
import json
import logging
import time
import zlib
from collections.abc import Callable, Mapping

from narrows.wire.onereader import OneReaderServer

MAX_LINES = 1000
MAX_LINE_CHARS = 400
Figures = Callable[[], Mapping[str, float]]


class LineRing(logging.Handler):
    """Keeps the last ``MAX_LINES`` log lines, numbered."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        self._lines: collections.deque[str] = collections.deque(maxlen=MAX_LINES)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.add(self.format(record))

    def add(self, line: str) -> None:
        self._lines.append(line.replace("\n", " ")[:MAX_LINE_CHARS])
        self.count += 1

    def since(self, number: int) -> list[str]:
        """Lines numbered ``number`` and later that are still kept."""
        fresh = min(self.count - number, len(self._lines))
        return list(self._lines)[len(self._lines) - fresh :] if fresh > 0 else []


class TelemetryServer(OneReaderServer):
    """Serves the ring. ``figures`` are added when they change."""

    def __init__(self, ring: LineRing, figures: Figures, interval_s: float) -> None:
        super().__init__(self._send)
        self._ring = ring
        self._figures = figures
        self._interval_s = interval_s

    async def _send(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Until the reader goes away: it never has anything to say."""
        gone = asyncio.create_task(reader.read(1))
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        sent, shown = 0, ""
        while not gone.done():
            lines = self._ring.since(sent)
            sent = self._ring.count
            figures = json.dumps(dict(self._figures()), sort_keys=True)
            if figures != shown:
                lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S')} figures {figures}")
                shown = figures
            if lines:
                text = "".join(f"{line}\n" for line in lines)
                data = packer.compress(text.encode("utf-8", "replace"))
                writer.write(data + packer.flush(zlib.Z_SYNC_FLUSH))
                await writer.drain()
            await asyncio.wait({gone}, timeout=self._interval_s)
