"""Server-sent events of a model server: bytes in, the data of one event at a time out.

As the standard has it: lines end in LF, CR or CRLF, a byte order mark may come first, the data
lines of an event are joined, an empty line ends it. An event that the end of the stream cuts off
in mid-line is dropped; one that lacks its empty line alone is taken.
"""

from __future__ import annotations

import re

from narrows.errors import NarrowsError

_LINE_END = re.compile(rb"\r\n|\n|\r")
_MARK = b"\xef\xbb\xbf"


class Malformed(NarrowsError):
    """The server's stream is not what it must be."""


class EventReader:
    """``max_bytes``: of a line, and of an event's data. Raises ``Malformed`` beyond."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._parts: list[bytes] = []  # of the line that has not ended: joined once, at its end
        self._waiting_bytes = 0
        self._data: list[bytes] = []
        self._size = 0
        self._skip_lf = False  # the last piece ended in a CR, whose LF may begin the next one
        self._first = True

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the events that ``data`` completes."""
        if self._skip_lf and data.startswith(b"\n"):
            data = data[1:]
        if not data:
            return []
        self._skip_lf = data.endswith(b"\r")
        *lines, rest = _LINE_END.split(data)
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts, self._waiting_bytes = [], 0
        self._parts.append(rest)
        self._waiting_bytes += len(rest)
        if self._waiting_bytes > self._max_bytes:
            raise Malformed("a line is longer than the limit")
        events: list[bytes] = []
        for line in lines:
            if self._first:
                self._first = False
                line = line.removeprefix(_MARK)
            if line:
                self._take(line)
            else:
                events += self.finish()
        return events

    def finish(self) -> list[bytes]:
        """The event whose lines have come, if any."""
        whole, self._data, self._size = b"\n".join(self._data), [], 0
        return [whole] if whole else []

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name != b"data":
            return
        self._data.append(value.removeprefix(b" "))
        self._size += len(value) + 1  # an empty line of data is kept too
        if self._size > self._max_bytes:
            raise Malformed("an event is longer than the limit")
