"""Bytes that come in pieces of any size, as lines: time linear in the bytes, memory bounded."""

from __future__ import annotations

from narrows.errors import LinkError


class LineSplitter:
    """``feed`` pieces. A line of more than ``max_line_bytes`` is a ``LinkError``, whole or not."""

    def __init__(self, max_line_bytes: int) -> None:
        self._max_line_bytes = max_line_bytes
        self._rest = bytearray()  # of a line without an end: each byte is looked at once

    def feed(self, data: bytes) -> list[bytes]:
        """The lines that ``data`` ends, without their ends."""
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = bytes(self._rest) + lines[0]
            self._rest.clear()
        self._rest += rest
        if max(map(len, (*lines, self._rest))) > self._max_line_bytes:
            raise LinkError(f"a line of more than {self._max_line_bytes:,} bytes")
        return lines
