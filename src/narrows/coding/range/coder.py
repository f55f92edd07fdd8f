"""The two ends of the range coder, and what each knows of what the other can decide.

The format, its ranges and their proof are in ``kernels.py``.
"""

from __future__ import annotations

import numpy as np

from narrows.coding.range import kernels
from narrows.coding.range.kernels import (
    DIGEST,
    LOW,
    MAX_SYMBOL_BYTES,
    PAST,
    POSITION,
    RANGE,
    TAIL,
    TOTAL_BITS,
    Bytes,
    State,
    new_state,
)
from narrows.errors import LinkError

_LONG = (1 << 112) - 1

Mark = tuple[int, int, int]
"""(position, PAST and low as one number of 128 bits, range) behind a symbol."""


def mark(state: State) -> Mark:
    return int(state[POSITION]), int(state[PAST]) << 64 | int(state[LOW]), int(state[RANGE])


class Sent:
    """The bytes that the encoder can have sent at a state, seen from either end."""

    __slots__ = ("_held", "_past", "position", "waste")

    def __init__(self, state: State) -> None:
        low, size = int(state[LOW]), int(state[RANGE])
        self.position = int(state[POSITION])
        self._past = int(state[PAST])
        self.waste = size.bit_length() - 57
        """Whole bits that a push would lose now, about: 0..7."""
        self._held = 0
        if low + size > 1 << 64:  # a carry may still come: the last byte that is not 255 waits
            self._held = 1
            while self._past & 255 == 255:
                self._past >>= 8
                self._held += 1
            self._past >>= 8
            self.position -= self._held

    def decides(self, mark: Mark) -> bool:
        """Whether these bytes decide the symbol behind which the state was ``mark``.

        Exact up to 5 bytes behind it; 6 are taken for enough, which is wrong where 40 bits of
        V happen to equal those of the border (a delay is then misjudged, nothing else). A
        carry that may run through more than 2 bytes is taken for undecided."""
        position, low, size = mark
        known = self.position - position
        if known <= 0 or known > 5 or self._held > 2:
            return known > 5
        ahead = ((self._past << 64) - (low << 8 * known)) & _LONG  # past has 48 bits or more
        return ahead + (1 << 64) <= size << 8 * known


class RangeEncoder:
    """Bytes out of (cum, freq) pairs. ``take`` hands out every byte that can no longer change."""

    def __init__(self) -> None:
        self.state = new_state()
        self._out: Bytes = np.zeros(4096, dtype=np.uint8)
        self._sent = 0

    @property
    def position(self) -> int:
        """Bytes shifted out since the start: equal at both ends at the same symbol."""
        return int(self.state[POSITION])

    @property
    def digest(self) -> int:
        return int(self.state[DIGEST])

    def encode(self, cum: int, freq: int) -> None:
        """0 <= cum, 1 <= freq, cum + freq <= 2**32, or ValueError."""
        if cum < 0 or freq < 1 or cum + freq > 1 << TOTAL_BITS:
            raise ValueError(f"interval {cum} + {freq} is outside 2**32")
        self._reserve()
        kernels.encode_symbol(self.state, self._out, np.uint64(cum), np.uint64(freq))

    def push(self) -> None:
        self._reserve()
        kernels.push(self.state, self._out)

    def take(self) -> bytes:
        end = int(kernels.determined(self.state, self._out, self._sent))
        data = self._out[self._sent : end].tobytes()
        self._sent = end
        return data

    def mark(self) -> Mark:
        return mark(self.state)

    def now(self) -> Sent:
        return Sent(self.state)

    def _reserve(self) -> None:
        """Room for a symbol. Handed-out bytes are dropped; a carry never reaches them."""
        tail = int(self.state[TAIL])
        if tail + MAX_SYMBOL_BYTES <= len(self._out):
            return
        kept = tail - self._sent
        room = np.zeros(max(4096, 2 * kept + MAX_SYMBOL_BYTES), dtype=np.uint8)
        room[:kept] = self._out[self._sent : tail]
        self._out, self._sent = room, 0
        self.state[TAIL] = np.uint64(kept)


class RangeDecoder:
    """Symbols out of a growing prefix of the bytes. Undecided is an answer, not an error."""

    def __init__(self) -> None:
        self.state = new_state()
        self._data: Bytes = np.zeros(4096, dtype=np.uint8)
        self._have = 0

    @property
    def position(self) -> int:
        return int(self.state[POSITION])

    @property
    def digest(self) -> int:
        return int(self.state[DIGEST])

    def mark(self) -> Mark:
        return mark(self.state)

    def now(self) -> Sent:
        return Sent(self.state)

    def feed(self, data: bytes) -> None:
        tail = min(int(self.state[TAIL]), self._have)
        if tail:
            self._data[: self._have - tail] = self._data[tail : self._have].copy()
            self._have -= tail
            self.state[TAIL] -= np.uint64(tail)
        need = self._have + len(data) + 8
        if need > len(self._data):
            self._data = np.concatenate([self._data, np.zeros(need, dtype=np.uint8)])
        self._data[self._have : self._have + len(data)] = np.frombuffer(data, dtype=np.uint8)
        self._have += len(data)

    def targets(self) -> tuple[int, int]:
        """The cumulative frequencies that the next symbol may contain, ends included. 2**32 as
        the last one: it may also be none, so no symbol is decided yet."""
        first, last = kernels.targets(self.state, self._data, self._have)
        if last < first:
            raise _impossible()
        return int(first), int(last)

    def consume(self, cum: int, freq: int) -> None:
        kernels.consume(self.state, np.uint64(cum), np.uint64(freq))

    def bit(self, freq_one: int) -> int:
        """The next bit, whose 1 has ``freq_one`` of 2**32; -1 while undecided."""
        bit = int(kernels.decide_bit(self.state, self._data, self._have, np.uint64(freq_one)))
        if bit == -2:
            raise _impossible()
        return bit

    def push(self) -> bool:
        """Follow a push; False while its bytes are missing. LinkError where they differ."""
        start, count, _ = kernels.push_cell(self.state[LOW], self.state[RANGE])
        tail = int(self.state[TAIL])
        if self._have < tail + count:
            return False
        want = int(start).to_bytes(8, "big")[:count]
        if self._data[tail : tail + count].tobytes() != want:
            raise LinkError("the coded stream is not canonical: a push has other bytes")
        kernels.follow_push(self.state)
        return True


def _impossible() -> LinkError:
    return LinkError("the coded stream left every interval: these bytes were never encoded")
