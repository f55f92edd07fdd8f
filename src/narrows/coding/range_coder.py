"""A byte-wise range coder with a 64-bit state, carry, pushes and a running digest.

The coded stream is one number ``V`` in [0, 1), written as base-256 digits. Encoder and decoder
narrow the same interval; everything below is in units of 2**-64 of the byte at ``position``::

    0            low                                low + range            2**64 (carry)
    |-------------|====|=============|================|-----------------------|
                       ^cell of a symbol: r * cum .. r * (cum + freq),  r = range >> 32

Ranges, at every call (``range`` is R, ``freq`` is f, totals are always 2**32):

1. before a symbol     2**56 <= R < 2**64, so r = R >> 32 lies in [2**24, 2**32)
2. r * (cum + f) <= r * 2**32 <= R: a cell never leaves its interval, products fit 64 bits
3. after a symbol      R' = r * f >= 2**24; at most 4 shifts by one byte restore 1
4. low' = low + r * cum may pass 2**64 once: the carry goes into bytes already shifted out;
   it never reaches a byte that was handed out, since handed-out bytes are those which low
   and low + R - 1 share
5. the part of R above r * 2**32 is never used: a loss below 2**-24 of a symbol's share

A *push* makes everything so far decodable: it takes the fewest further bytes whose every
continuation lies inside the interval, and goes on from the interval of exactly those bytes,
R = 2**64 - 1. By (1) one or two bytes beyond the carry-safe ones are enough: R >= 2**57 holds
an aligned cell of 2**56, and R >= 2**56 one of 2**48.

The decoder sees a prefix of the bytes, so V in a window [w, w + 2**(8 m)), m bytes missing of
eight. A symbol is decided when the whole window, as far as it can lie in the interval, falls
into one cell.

The digest absorbs every (cum, freq) coded: ends whose probabilities differ in one integer
have different digests, whether or not they decode the same symbols. It guards against faults,
it is no cryptographic hash.

State, uint64: LOW, RANGE, POSITION (bytes shifted out since the start), DIGEST, TAIL (index
in the buffer that POSITION has), PAST (the last eight bytes shifted out, as a number). All but
TAIL are equal at both ends after the same symbol; so both know what the other end can decide.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.errors import LinkError

TOTAL_BITS = 32
LOW, RANGE, POSITION, DIGEST, TAIL, PAST = range(6)
MAX_SYMBOL_BYTES = 8
"""A symbol shifts out at most 4 bytes, a push writes at most 2."""

_LONG = (1 << 112) - 1
_FULL = np.uint64((1 << 64) - 1)
_FLOOR = np.uint64(1 << 56)
_B8, _B56, _B32, _B29 = np.uint64(8), np.uint64(56), np.uint64(32), np.uint64(29)
_ZERO, _ONE, _FF = np.uint64(0), np.uint64(1), np.uint64(255)
_MIX = np.uint64(0x9E3779B97F4A7C15)

State = NDArray[np.uint64]
Bytes = NDArray[np.uint8]


def new_state() -> State:
    state = np.zeros(6, dtype=np.uint64)
    state[RANGE] = _FULL
    state[DIGEST] = np.uint64(0x6E6172726F777331)
    return state


@njit(cache=True, nogil=True)
def _absorb(state, cum, freq):  # type: ignore[no-untyped-def] # numba infers
    mixed = (state[DIGEST] ^ ((cum << _B32) | (freq & np.uint64(0xFFFFFFFF)))) * _MIX
    state[DIGEST] = mixed ^ (mixed >> _B29)


@njit(cache=True, nogil=True)
def _carry(out, tail):  # type: ignore[no-untyped-def] # numba infers
    index = tail - 1
    while out[index] == 255:
        out[index] = 0
        index -= 1
    out[index] += 1


@njit(cache=True, nogil=True)
def encode_symbol(state, out, cum, freq):  # type: ignore[no-untyped-def] # numba infers
    """Narrow to [cum, cum + freq) of 2**32. ``out`` has MAX_SYMBOL_BYTES free at TAIL."""
    low, size = state[LOW], state[RANGE]
    share = size >> _B32
    moved = low + share * cum
    tail = np.int64(state[TAIL])
    if moved < low:
        _carry(out, tail)
        state[PAST] += _ONE
    size = share * freq
    start = tail
    while size < _FLOOR:
        out[tail] = np.uint8(moved >> _B56)
        state[PAST] = (state[PAST] << _B8) | (moved >> _B56)
        tail += 1
        moved = moved << _B8
        size = size << _B8
    state[LOW], state[RANGE] = moved, size
    state[POSITION] += np.uint64(tail - start)
    state[TAIL] = np.uint64(tail)
    _absorb(state, cum, freq)


@njit(cache=True, nogil=True)
def encode_symbols(state, out, cums, freqs):  # type: ignore[no-untyped-def] # numba infers
    """``encode_symbol`` over arrays (uint64 [n] each); ``out`` holds 4 n + 8 bytes."""
    for index in range(cums.shape[0]):
        encode_symbol(state, out, cums[index], freqs[index])


@njit(cache=True, nogil=True)
def push_cell(low, size):  # type: ignore[no-untyped-def] # numba infers
    """The largest byte-aligned cell inside [low, low + size): (start mod 2**64, bytes, carry)."""
    for count in range(1, 9):
        width = _ONE << np.uint64(64 - 8 * count)
        start = low
        carry = False
        rest = low & (width - _ONE)
        if rest != _ZERO:
            start = low + (width - rest)
            carry = start < low
        skipped = start - low
        if skipped < size and size - skipped >= width:
            return start, count, carry
    return low, 8, False


@njit(cache=True, nogil=True)
def push(state, out):  # type: ignore[no-untyped-def] # numba infers
    """Write the bytes of the push cell and go on from it. Uses at most 8 bytes of ``out``."""
    start, count, carry = push_cell(state[LOW], state[RANGE])
    tail = np.int64(state[TAIL])
    if carry:
        _carry(out, tail)
    for index in range(count):
        out[tail + index] = np.uint8((start >> np.uint64(56 - 8 * index)) & _FF)
    _restart(state, start, count, carry)


@njit(cache=True, nogil=True)
def _restart(state, start, count, carry):  # type: ignore[no-untyped-def] # numba infers
    """Go on behind a push, at either end."""
    if carry:
        state[PAST] += _ONE
    for index in range(count):
        byte = (start >> np.uint64(56 - 8 * index)) & _FF
        state[PAST] = (state[PAST] << _B8) | byte
    state[TAIL] += np.uint64(count)
    state[POSITION] += np.uint64(count)
    state[LOW], state[RANGE] = _ZERO, _FULL


@njit(cache=True, nogil=True)
def follow_push(state):  # type: ignore[no-untyped-def] # numba infers
    """The decoder's half of ``push``, where it has compared the bytes."""
    start, count, carry = push_cell(state[LOW], state[RANGE])
    _restart(state, start, count, carry)


@njit(cache=True, nogil=True)
def determined(state, out, sent):  # type: ignore[no-untyped-def] # numba infers
    """Index in ``out`` up to which no later symbol can change a byte (>= ``sent``)."""
    tail = np.int64(state[TAIL])
    low = state[LOW]
    if low + (state[RANGE] - _ONE) >= low:
        return tail
    while tail > sent and out[tail - 1] == 255:
        tail -= 1
    return max(tail - 1, sent)


@njit(cache=True, nogil=True)
def targets(state, data, have):  # type: ignore[no-untyped-def] # numba infers
    """(lowest, highest) of the cumulative frequencies that V can have; highest < lowest: none.

    ``data[TAIL:have]`` are the received bytes of the window."""
    low, size = state[LOW], state[RANGE]
    share = size >> _B32
    top = (share << _B32) - _ONE
    tail = np.int64(state[TAIL])
    known = min(have - tail, 8)
    if known <= 0:
        return _ZERO, top // share
    window = _ZERO
    for index in range(known):
        window |= np.uint64(data[tail + index]) << np.uint64(56 - 8 * index)
    spread = (_ONE << np.uint64(64 - 8 * known)) - _ONE
    first = window - low
    last = first + spread
    if last < first:  # the window straddles low from below (or all of the number line)
        if first < size:
            return _ZERO, top // share
        first = _ZERO
    if first > top:
        return _ONE, _ZERO
    return first // share, min(last, top) // share


@njit(cache=True, nogil=True)
def consume(state, cum, freq):  # type: ignore[no-untyped-def] # numba infers
    """The decoder's half of ``encode_symbol``: the same narrowing, reading instead of writing."""
    share = state[RANGE] >> _B32
    before = state[LOW]
    low = before + share * cum
    if low < before:
        state[PAST] += _ONE
    size = share * freq
    shifted = _ZERO
    while size < _FLOOR:
        state[PAST] = (state[PAST] << _B8) | (low >> _B56)
        low = low << _B8
        size = size << _B8
        shifted += _ONE
    state[LOW], state[RANGE] = low, size
    state[POSITION] += shifted
    state[TAIL] += shifted
    _absorb(state, cum, freq)


@njit(cache=True, nogil=True)
def decide_bit(state, data, have, freq_one):  # type: ignore[no-untyped-def] # numba infers
    """Decode a bit whose 1 has [0, freq_one): 0, 1, -1 undecided, -2 no value is possible."""
    first, last = targets(state, data, have)
    if last < first:
        return -2
    if last < freq_one:
        consume(state, _ZERO, freq_one)
        return 1
    if first >= freq_one:
        consume(state, freq_one, (_ONE << _B32) - freq_one)
        return 0
    return -1


@njit(cache=True, nogil=True)
def decode_symbols(state, data, have, cumulative, count):  # type: ignore[no-untyped-def] # numba infers
    """Decode ``count`` symbols of one fixed table (uint64 [n + 1], 0 .. 2**32): int64 [count],
    shorter where the bytes end. For measurements and tests."""
    symbols = np.empty(count, dtype=np.int64)
    for index in range(count):
        first, last = targets(state, data, have)
        if last < first:
            return symbols[:index]
        left, right = 0, cumulative.shape[0] - 1
        while right - left > 1:
            middle = (left + right) >> 1
            if cumulative[middle] <= first:
                left = middle
            else:
                right = middle
        if last >= cumulative[left + 1]:
            return symbols[:index]
        consume(state, cumulative[left], cumulative[left + 1] - cumulative[left])
        symbols[index] = left
    return symbols


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
        encode_symbol(self.state, self._out, np.uint64(cum), np.uint64(freq))

    def push(self) -> None:
        self._reserve()
        push(self.state, self._out)

    def take(self) -> bytes:
        end = int(determined(self.state, self._out, self._sent))
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
        """The cumulative frequencies that the next symbol may contain, ends included."""
        first, last = targets(self.state, self._data, self._have)
        if last < first:
            raise _impossible()
        return int(first), int(last)

    def consume(self, cum: int, freq: int) -> None:
        consume(self.state, np.uint64(cum), np.uint64(freq))

    def bit(self, freq_one: int) -> int:
        """The next bit, whose 1 has ``freq_one`` of 2**32; -1 while undecided."""
        bit = int(decide_bit(self.state, self._data, self._have, np.uint64(freq_one)))
        if bit == -2:
            raise _impossible()
        return bit

    def push(self) -> bool:
        """Follow a push; False while its bytes are missing. LinkError where they differ."""
        start, count, _ = push_cell(self.state[LOW], self.state[RANGE])
        tail = int(self.state[TAIL])
        if self._have < tail + count:
            return False
        want = int(start).to_bytes(8, "big")[:count]
        if self._data[tail : tail + count].tobytes() != want:
            raise LinkError("the coded stream is not canonical: a push has other bytes")
        follow_push(self.state)
        return True


def _impossible() -> LinkError:
    return LinkError("the coded stream left every interval: these bytes were never encoded")
