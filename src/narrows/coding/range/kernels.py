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
eight. A symbol is decided when the whole window lies in one cell, and refused when all of it
lies in none; a window that lies there in part decides nothing, so that what is refused, and
where, depends on the bytes and not on how they were cut. With that the window of the bytes
received lies in the interval before every symbol, but for the first and those behind a push.

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

TOTAL_BITS = 32
LOW, RANGE, POSITION, DIGEST, TAIL, PAST = range(6)
MAX_SYMBOL_BYTES = 8
"""A symbol shifts out at most 4 bytes, a push writes at most 2."""

_FULL = np.uint64((1 << 64) - 1)
_FLOOR = np.uint64(1 << 56)
_B8, _B56, _B32, _B29 = np.uint64(8), np.uint64(56), np.uint64(32), np.uint64(29)
_ZERO, _ONE, _FF = np.uint64(0), np.uint64(1), np.uint64(255)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_TOTAL = np.uint64(1 << TOTAL_BITS)

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
    """(lowest, highest) of the cumulative frequencies that V can have; highest < lowest: none;
    highest 2**32: V may also be where no symbol is, so that none is decided.

    ``data[TAIL:have]`` are the received bytes of the window."""
    low, size = state[LOW], state[RANGE]
    share = size >> _B32
    top = (share << _B32) - _ONE
    tail = np.int64(state[TAIL])
    known = min(have - tail, 8)
    if known <= 0:
        return _ZERO, _TOTAL
    window = _ZERO
    for index in range(known):
        window |= np.uint64(data[tail + index]) << np.uint64(56 - 8 * index)
    spread = (_ONE << np.uint64(64 - 8 * known)) - _ONE
    first = window - low
    last = first + spread
    if last < first:  # the window reaches to low from below, or all around
        return _ZERO, _TOTAL
    if first > top:
        return _ONE, _ZERO
    return first // share, _TOTAL if last > top else last // share


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
    if first >= freq_one and last < _TOTAL:
        consume(state, freq_one, _TOTAL - freq_one)
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
