"""The arithmetic of ``token_code``: which tokens are listed, their shares, what is learned.

A *list* holds the tokens that matter (ids ascending, at most 512), each with a base score;
the others share the *escape*. With x a token's features (all Q16, log2 units)::

    f(i) = (slope * base(i) >> 16) + match[run(i)]
         + (gain[0] * own[i] + gain[1] * pair[previous, i] >> 16)

    w(i) = 2**(f(i) - max f) (``dist.power_of_two``);  Z = sum of w + w(escape)
    share(i) = 1 + w(i) * M // (Z + 1),   M = 2**32 - K - V,   K listed of V tokens

(both w and Z shifted right until Z < 2**32), so the escape keeps at least V of 2**32, one for
each token in it; where all V are listed, the last one takes what is left. This is an online
log-linear (maximum entropy) model on top of the weak one; after each token, every feature
takes a gradient step on the code length: g = [i came] - w(i) / Z in Q16. ``own`` and ``pair``
live in one hashed table per answer, with AdaGrad's falling rates (Duchi et al. 2011, the step
divided by the root of the summed |g|) and as if the gains were 1. ``run(i)``: the longest run
of tokens before here that also stands before an earlier i, prompt included.

Ranges: |base| <= 2**23; slope in [2**13, 2**19]; biases within +-2**20; gains in [0, 2**18],
and |sum of g * bias| <= 2**37, since the |g| sum to at most 2**17; f fits int64 with room,
depths are clipped at 2**23 by the power. w <= 2**32, K <= 512: Z < 2**42.
"""

from __future__ import annotations

from math import isqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding.tokens import noise
from narrows.coding.tokens.calibrate import ESCAPE, GAIN, MATCH, MATCH_LENGTHS, SLOPE
from narrows.models import distribution as dist

LIST_MAX = 512
TABLE_BITS = 15
WINDOW_TOKENS = 8192  # how far back repetitions are looked for
_LIST_SHIFT = 11  # tokens above 2**-11 are listed
_BIAS_MAX = 1 << 20
_SLOPE_MIN, _SLOPE_MAX = 1 << 13, 1 << 19
_SLOPE_SHIFT = 11  # steps of 2**-11 of the gradient, and so on
_GAIN_MAX = 1 << 18
_GAIN_SHIFT = 5
_MATCH_SHIFT = _ESCAPE_SHIFT = 6
_TINY = 64  # gradients below 2**-10 teach nothing

# Rates of the hashed biases by summed |g| in quarters: 0.43 / sqrt(1 + n), Q16.
_RATES = np.array([28_400 * 65536 // isqrt((65536 * 65536 * (4 + k)) // 4) for k in range(256)])


@njit(cache=True, nogil=True)
def list_likely(
    weights: NDArray[np.uint32],
    total: np.uint64,
    ids: NDArray[np.int32],
    base: NDArray[np.int64],
) -> tuple[int, np.int64]:
    """List the tokens with w > W >> 11 (fewer bits where they would be over 512).

    base = log2 of their probability. Returns (K, log2 of the mass that is not listed)."""
    shift = _LIST_SHIFT
    count = 0
    while True:
        limit = np.uint32(min(total >> np.uint64(shift), np.uint64(0xFFFFFFFF)))
        count = 0
        for i in range(len(weights)):
            if weights[i] > limit:
                if count < LIST_MAX:
                    ids[count] = i
                count += 1
        if count <= LIST_MAX:
            break
        shift -= 1  # at 9 there are at most 512
    whole = noise.log2_q40(total)
    rest = total
    for k in range(count):
        w = np.uint64(weights[ids[k]])
        rest -= w
        base[k] = (noise.log2_q40(w) - whole) >> 24
    return count, (noise.log2_q40(max(rest, np.uint64(1))) - whole) >> 24


@njit(cache=True, nogil=True)
def runs(
    history: NDArray[np.int32], length: int, marks: NDArray[np.uint8], seen: NDArray[np.int32]
) -> int:
    """Mark run(i) - see above - in ``marks`` uint8 [V]; returns how many ids ``seen`` holds."""
    count = 0
    if length < 2:
        return 0
    last = history[length - 1]
    for j in range(length - 1, max(0, length - WINDOW_TOKENS), -1):
        if history[j - 1] != last:
            continue
        run = 1
        while (
            run < MATCH_LENGTHS - 1
            and j - 1 - run >= 0
            and history[j - 1 - run] == history[length - 1 - run]
        ):
            run += 1
        token = history[j]
        if marks[token] == 0 and count < len(seen):
            seen[count] = token
            count += 1
            marks[token] = run
        elif run > marks[token] > 0:
            marks[token] = run
    return count


@njit(cache=True, nogil=True)
def _slot(token: int, previous: int) -> np.int64:
    h = np.uint32(np.uint32(token) * np.uint32(0x9E3779B1))
    h = np.uint32(h ^ np.uint32(np.uint32(previous + 1) * np.uint32(0x85EBCA6B)))
    h = np.uint32(np.uint32(h ^ np.uint32(h >> np.uint32(15))) * np.uint32(0x2C1B3C6D))
    return np.int64(h >> np.uint32(32 - TABLE_BITS))


@njit(cache=True, nogil=True)
def score(
    ids: NDArray[np.int32],
    base: NDArray[np.int64],
    count: int,
    escape: np.int64,
    previous: int,
    scalars: NDArray[np.int64],
    table: NDArray[np.int32],
    marks: NDArray[np.uint8],
    out: NDArray[np.uint64],
) -> np.uint64:
    """w of the listed tokens and, at ``out[count]``, of the escape; returns Z."""
    f = np.empty(count + 1, np.int64)
    best = escape + scalars[ESCAPE]
    f[count] = best
    for k in range(count):
        i = ids[k]
        f[k] = (
            ((scalars[SLOPE] * base[k]) >> 16)
            + scalars[MATCH + marks[i]]
            + (
                (
                    scalars[GAIN] * table[_slot(i, -1)]
                    + scalars[GAIN + 1] * table[_slot(i, previous)]
                )
                >> 16
            )
        )
        best = max(best, f[k])
    total = np.uint64(0)
    for k in range(count + 1):
        depth = np.int32(min(best - f[k], np.int64(1 << 23)))
        out[k] = np.uint64(dist.power_of_two(depth, np.int32(dist.ONE_Q12)))
        total += out[k]
    return total


@njit(cache=True, nogil=True)
def share(
    ids: NDArray[np.int32],
    base: NDArray[np.int64],
    count: int,
    escape: np.int64,
    history: NDArray[np.int32],
    length: int,
    scalars: NDArray[np.int64],
    table: NDArray[np.int32],
    marks: NDArray[np.uint8],
    seen: NDArray[np.int32],
    vocab_size: int,
    lows: NDArray[np.uint64],
    chances: NDArray[np.int64],
    matched: NDArray[np.int64],
) -> None:
    """Fill ``lows`` [K + 1] (the last one is A), ``chances`` [K + 1] (w / Z in Q16, the escape
    last) and ``matched`` [K] (run(i), for ``learn``). ``marks`` is zero before and after."""
    marked = runs(history, length, marks, seen)
    previous = history[length - 1] if length else -2
    total = score(ids, base, count, escape, previous, scalars, table, marks, lows)
    for k in range(count + 1):
        chances[k] = np.int64((lows[k] << np.uint64(16)) // total)
    spread = np.uint64((1 << 32) - count - vocab_size)
    shift = np.uint64(0)
    while (total >> shift) >= np.uint64(1 << 32):
        shift += np.uint64(1)
    whole = (total >> shift) + np.uint64(1)  # at least the sum of the shifted scores
    low = np.uint64(0)
    for k in range(count):
        width = np.uint64(1) + (lows[k] >> shift) * spread // whole
        lows[k] = low
        low += width
    if count == vocab_size:  # nothing escapes: the last one takes what is left
        low = np.uint64(1 << 32)
    lows[count] = low
    for k in range(count):
        matched[k] = marks[ids[k]]
    for k in range(marked):
        marks[seen[k]] = 0


@njit(cache=True, nogil=True)
def locate(ids: NDArray[np.int32], count: int, token: int) -> int:
    """Index of ``token`` in the list, -1 where it is not listed."""
    for k in range(count):
        if ids[k] == token:
            return k
    return -1


@njit(cache=True, nogil=True)
def clamp(value: np.int64, low: int, high: int) -> np.int64:
    return np.int64(max(np.int64(low), min(np.int64(high), value)))


@njit(cache=True, nogil=True)
def _adapt(table: NDArray[np.int32], sums: NDArray[np.uint32], slot: np.int64, g: np.int64) -> None:
    total = np.int64(sums[slot])
    step = (g * _RATES[int(min(total >> 14, np.int64(255)))]) >> 16
    table[slot] = clamp(table[slot] + step, -_BIAS_MAX, _BIAS_MAX)
    sums[slot] = min(total + abs(g), np.int64(0xFFFFFFFF))


@njit(cache=True, nogil=True)
def learn(
    token: int,
    ids: NDArray[np.int32],
    base: NDArray[np.int64],
    count: int,
    chances: NDArray[np.int64],
    previous: int,
    scalars: NDArray[np.int64],
    table: NDArray[np.int32],
    sums: NDArray[np.uint32],
    matched: NDArray[np.int64],
) -> None:
    """One gradient step of every feature. ``chances``: w / Z in Q16, escape last."""
    at = locate(ids, count, token)
    slope = own = pair = np.int64(0)
    for k in range(count):
        g = -chances[k]
        if k == at:
            g += 65536
        slope += g * base[k]
        mark = MATCH + matched[k]
        scalars[mark] = clamp(scalars[mark] + (g >> _MATCH_SHIFT), -_BIAS_MAX, _BIAS_MAX)
        if g >= _TINY or g <= -_TINY:
            alone, after = _slot(ids[k], -1), _slot(ids[k], previous)
            own += g * table[alone]
            pair += g * table[after]
            _adapt(table, sums, alone, g)
            _adapt(table, sums, after, g)
    g = -chances[count]
    if at < 0:
        g += 65536
        _adapt(table, sums, _slot(token, -1), np.int64(32768))
        _adapt(table, sums, _slot(token, previous), np.int64(32768))
    scalars[ESCAPE] = clamp(scalars[ESCAPE] + (g >> _ESCAPE_SHIFT), -_BIAS_MAX, _BIAS_MAX)
    slope = slope >> (16 + _SLOPE_SHIFT)
    scalars[SLOPE] = clamp(scalars[SLOPE] + slope, _SLOPE_MIN, _SLOPE_MAX)
    scalars[GAIN] = clamp(scalars[GAIN] + (own >> (16 + _GAIN_SHIFT)), 0, _GAIN_MAX)
    scalars[GAIN + 1] = clamp(scalars[GAIN + 1] + (pair >> (16 + _GAIN_SHIFT)), 0, _GAIN_MAX)
