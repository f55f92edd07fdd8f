"""Reading the enclave's telemetry at the edge: text that an attacker may have written.

Every read inflates to a bounded number of characters, lines are bounded, and whatever could
drive a terminal (control characters, bidirectional overrides) is shown as an escape.
"""

from __future__ import annotations

import dataclasses
import unicodedata
import zlib
from collections.abc import AsyncIterator

from narrows.edge.config import EdgeConfig
from narrows.edge.link.dial import GateDialer
from narrows.errors import LinkError
from narrows.wire.address import parse_address
from narrows.wire.lines import LineSplitter

MAX_INFLATED_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 14  # an enclave's log lines have 400 characters, its figures fewer
MAX_LINES = 1 << 12  # of one read; an enclave keeps 1,000
MAX_LINE_CHARS = 1000


def printable(line: str) -> str:
    """The line with everything invisible or directing written as an escape."""
    return "".join(
        char if unicodedata.category(char)[0] not in "CZ" or char == " " else f"\\u{ord(char):04x}"
        for char in line[:MAX_LINE_CHARS]
    )


class LineReader:
    """Inflates a raw deflate stream into printable lines. Raises LinkError."""

    def __init__(self) -> None:
        self._unpacker = zlib.decompressobj(-15)
        self._lines = LineSplitter(MAX_LINE_BYTES)

    def feed(self, data: bytes) -> list[str]:
        try:
            text = self._unpacker.decompress(data, MAX_INFLATED_BYTES)
        except zlib.error as error:
            raise LinkError("the telemetry is no deflate stream") from error
        if self._unpacker.unconsumed_tail or self._unpacker.eof:
            raise LinkError("the telemetry inflates to too much, or has ended")
        lines = self._lines.feed(text)
        if len(lines) > MAX_LINES:
            raise LinkError(f"{len(lines)} lines of telemetry at once")
        return [printable(line.decode("utf-8", "replace")) for line in lines]


async def read_lines(config: EdgeConfig, gate: str) -> AsyncIterator[str]:
    """Lines from the telemetry port ``gate`` (host:port) until it closes. Raises PeerError,
    LinkError."""
    host, port = parse_address(gate)
    wire = await GateDialer(dataclasses.replace(config, gate_host=host, gate_port=port)).connect(
        lambda count: None
    )
    reader = LineReader()
    try:
        while (data := await wire.read()) is not None:
            for line in reader.feed(data):
                yield line
    finally:
        wire.close()
