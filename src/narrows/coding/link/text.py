"""Foreign text into weak-model tokens while it streams, never changing a byte of it.

The tokens released so far always concatenate to a prefix of the text, and after ``finish`` to
all of it: whatever the tokeniser does at borders costs bits, never exactness.

What is held back (the stated hold-back): the newest chunk, since what follows may continue its
last word, but at most ``hold_ms``; until then also the white space at the end, whose tokens
depend on what follows it, and the last word where it ends in half a character (all chunks of
such an end together at most twice ``hold_ms``); an incomplete UTF-8 sequence until it is
complete or impossible; and a token that reaches into held text. Text before a space that
follows a non-space is never held for what comes after: every pretokeniser in use splits there.
"""

from __future__ import annotations

from narrows.errors import InputError
from narrows.models.api import Tokenizer

MAX_BUFFER_BYTES = 512
"""More than this is cut, word or not, so that no text is tokenised again and again."""

_SPACES = b" \t\n\r\x0b\x0c"
_BLOCK_BYTES = 4096

Piece = tuple[int, bytes]
"""(token, its bytes), or (-1, one byte) for a byte that has no token."""


class TextTokens:
    """One answer's text. Times are the link's milliseconds."""

    def __init__(self, tokenizer: Tokenizer, hold_ms: float) -> None:
        self._tokenizer = tokenizer
        self._hold_ms = hold_ms
        self._buffer = bytearray()
        self._chunks: list[tuple[int, float]] = []
        self._settled = 0
        self._firm_ms: float | None = None  # until then, settled text at the end is held

    @property
    def held(self) -> bool:
        return bool(self._buffer)

    def due_ms(self) -> float | None:
        """When the held text has waited enough; None while nothing is held that time frees."""
        newest = (at_ms + self._hold_ms for end, at_ms in self._chunks if end > self._settled)
        return self._firm_ms if self._firm_ms is not None else next(newest, None)

    def put(self, data: bytes, now_ms: float) -> None:
        if not data:
            return
        if self._chunks:
            self._settle(self._chunks[-1][0])
        self._buffer += data
        self._chunks.append((len(self._buffer), now_ms))
        self._settle(_last_cut(self._buffer, self._settled))

    def take(self, now_ms: float) -> list[tuple[Piece, float]]:
        """Pieces that are free by now, each with the time at which its last byte came."""
        if not self._buffer:
            return []
        for end, at_ms in self._chunks:
            if at_ms + self._hold_ms <= now_ms:
                self._settle(end)
        if len(self._buffer) > MAX_BUFFER_BYTES:
            self._settle(len(self._buffer) - MAX_BUFFER_BYTES // 2)
        limit = min(self._settled, len(self._buffer) - _unfinished(self._buffer))
        self._firm_ms = None
        firm = _firm(self._buffer)
        if firm < limit and len(self._buffer) <= MAX_BUFFER_BYTES:
            oldest_ms, newest_ms = self._chunks[0][1], self._chunks[-1][1]
            until_ms = min(newest_ms, oldest_ms + self._hold_ms) + self._hold_ms
            if now_ms < until_ms:
                limit, self._firm_ms = firm, until_ms
        return self._release(limit)

    def finish(self) -> list[tuple[Piece, float]]:
        """All that is left."""
        self._firm_ms = None
        return self._release(len(self._buffer))

    def _settle(self, position: int) -> None:
        self._settled = max(self._settled, position)

    def _release(self, end: int) -> list[tuple[Piece, float]]:
        released: list[tuple[Piece, float]] = []
        while end > 0:
            block = bytes(self._buffer[:_BLOCK_BYTES])
            last = len(block) == len(self._buffer)
            limit = min(end, len(block) if last else len(block) - 64)
            done = 0
            for token, data in self._pieces(block):
                if done + len(data) > limit and done:
                    break
                if done + len(data) > end:
                    break
                done += len(data)
                released.append(((token, data), self._came_at(done)))
            if not done:
                break
            self._drop(done)
            end -= done
        return released

    def _pieces(self, data: bytes) -> list[Piece]:
        """Tokens of ``data``; bytes that no token has come as pieces of their own."""
        try:
            ids = self._tokenizer.encode(data)
        except InputError:
            if len(data) == 1:
                return [(-1, data)]
            middle = len(data) // 2
            return self._pieces(data[:middle]) + self._pieces(data[middle:])
        pieces = [(token, self._tokenizer.token_bytes(token)) for token in ids]
        if b"".join(data for _, data in pieces) != data or any(not part for _, part in pieces):
            return [(-1, bytes([byte])) for byte in data]
        return pieces

    def _came_at(self, position: int) -> float:
        for end, at_ms in self._chunks:
            if end >= position:
                return at_ms
        return self._chunks[-1][1]

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self._settled = max(self._settled - count, 0)
        self._chunks = [(end - count, at_ms) for end, at_ms in self._chunks if end > count]


def _last_cut(data: bytearray, start: int) -> int:
    """Where the last space after a non-space is, or 0."""
    position = len(data)
    while (position := data.rfind(b" ", max(start, 1), position)) > 0:
        if data[position - 1] not in _SPACES:
            return position
    return 0


def _firm(data: bytearray) -> int:
    """Up to where the tokens do not depend on what comes within the newest chunk's hold."""
    if _unfinished(data):
        return _last_cut(data, 0)
    return len(data.rstrip(_SPACES))


def _unfinished(data: bytearray) -> int:
    """Bytes of an incomplete UTF-8 sequence at the end: 0..3."""
    for back in range(1, min(3, len(data)) + 1):
        byte = data[-back]
        if byte & 0xC0 == 0x80:
            continue
        need = 2 if byte & 0xE0 == 0xC0 else 3 if byte & 0xF0 == 0xE0 else 4
        return back if byte >= 0xC0 and byte < 0xF8 and back < need else 0
    return 0
