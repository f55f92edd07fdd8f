"""The next-token distribution in integers: from logits to shares of 2**32, exactly.

Full specification; ``docs/numerics.md`` refers to it. ``>>`` floors, ``//`` floors.

Weights (``weigh``)
1. Input: logits ``l`` int32 [V], 2 <= V <= 2**18, every |l| < 2**30, units of 2**-16 bits.
2. ``d = min(max(l) - l, 2**23 - 1)``: depth under the best token, Q16, clipped at 128 bits.
3. Temperature: ``b`` is the inverse temperature in Q12, 1 <= b <= 2**15 (``inverse_q12``).
   ``e = min((((d >> 8) * b) + (((d & 255) * b) >> 8)) >> 4, 2**21 - 1)``: scaled depth, Q16
   (first product < 2**30). For b = 4096 (T = 1) this is ``min(d, 2**21 - 1)``.
4. ``n = e >> 16``, ``f = e & 65535``; 2**(-f / 65536) as a polynomial, Horner with rounding::

       r = 6956 - ((880 * f + 32768) >> 16)       Q17, positive
       r = 31384 - ((r * f + 32768) >> 16)        Q17; r * f < 2**31
       r = 45422 - ((r * f + 65536) >> 17)        Q16, 2**15 - 2 < r <= 45422; r * f < 2**32
       m = 2**32 - 1 - r * f                      Q32, 2**31 < m < 2**32
       w = m >> n                                 weight; 0 where n = 31 and f = 65535

   |m / (2**32 * 2**(-f / 65536)) - 1| < 2**-15 for every f (the tests try all 65,536), which
   costs below 2**-30 bits a token. No floor here: this is what "unfloored" means.
5. Blocks: ``B[k]`` is the sum of w over ids 256 k .. 256 k + 255; ``W``, their sum, lies in
   [2**32 - 1, 2**50).

Shares (``Shares``, floored: every token has at least 1 of 2**32)
6. Some tokens may be *listed*: the caller codes them apart, inside [0, A), A < 2**32 - V.
   Their weights count as 0 and they are not counted among the others.
7. The others, in order of id, fill [A, 2**32). With n their number, ``C(i)`` the sum of the
   weights and ``j(i)`` the number of others before i, ``W'`` the sum of all their weights,
   ``h = max(0, bit_length(W') - 32)`` and ``M = 2**32 - A - n``::

       low(i) = A + j(i) + ((C(i) >> h) * M) // (W' >> h)

   or ``A + j(i) + (j(i) * M) // n`` where W' = 0. Products stay below 2**64 because both
   factors are at most 2**32. The share of i is low(next of the others) - low(i) >= 1, and
   "next" after the last one gives 2**32 exactly: nothing remains, so no rule for a remainder.
   A share differs from w * M / W' by less than 4 of 2**32.

Nothing of length V is written after the weights: one interval or search reads the block sums
and one block, a microsecond or two.

Truncation (``nucleus``): tokens in order of (logit descending, id ascending); kept is the
shortest prefix whose weights sum to at least ``(W * top_p + 65535) >> 16``; at least one.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.errors import InputError

TOTAL_BITS = 32
BLOCK = 256
MAX_VOCAB = 1 << 18
ONE_Q12 = 4096
MAX_INVERSE_Q12 = 1 << 15
_TOTAL = np.uint64(1 << 32)
_NUCLEUS_BINS = 1024  # 1/32 bit each, over the 32 bits that have any weight

Logits = NDArray[np.int32]
Weights = NDArray[np.uint32]
Blocks = NDArray[np.uint64]


def inverse_q12(temperature_q16: int) -> int:
    """1 / temperature in Q12, rounded to nearest, clamped to [1, 2**15]; temperature > 0."""
    if temperature_q16 <= 0:
        raise InputError("a temperature of 0 has no inverse")
    return max(1, min(MAX_INVERSE_Q12, ((1 << 29) // temperature_q16 + 1) >> 1))


def block_count(vocab_size: int) -> int:
    if not 2 <= vocab_size <= MAX_VOCAB:
        raise InputError(f"vocabulary of {vocab_size} tokens; 2 to {MAX_VOCAB} are supported")
    return -(-vocab_size // BLOCK)


@njit(cache=True, nogil=True)
def highest(logits: Logits) -> np.int32:
    """The largest logit."""
    best = np.int32(-(2**31))
    for i in range(len(logits)):
        best = max(best, logits[i])
    return best


@njit(cache=True, nogil=True, inline="always")
def power_of_two(depth, b):  # type: ignore[no-untyped-def]  # inlined; numba infers int32
    """Steps 2 to 4 for one token: about 2**32 * 2**-(depth * b). 32 bits, so that it vectorises."""
    d = np.int32(min(depth, np.int32((1 << 23) - 1)))
    high = np.int32(np.int32(d >> np.int32(8)) * b)
    low = np.int32(np.int32(d & np.int32(255)) * b)
    e = np.int32(np.int32(high + np.int32(low >> np.int32(8))) >> np.int32(4))
    e = np.int32(min(e, np.int32((1 << 21) - 1)))
    f = np.uint32(e & np.int32(65535))
    r = np.uint32(np.uint32(880) * f)
    r = np.uint32(np.uint32(6956) - np.uint32(np.uint32(r + np.uint32(32768)) >> np.uint32(16)))
    r = np.uint32(r * f)
    r = np.uint32(np.uint32(31384) - np.uint32(np.uint32(r + np.uint32(32768)) >> np.uint32(16)))
    r = np.uint32(r * f)
    r = np.uint32(np.uint32(45422) - np.uint32(np.uint32(r + np.uint32(65536)) >> np.uint32(17)))
    m = np.uint32(np.uint32(0xFFFFFFFF) - np.uint32(r * f))
    return np.uint32(m >> np.uint32(e >> np.int32(16)))


@njit(cache=True, nogil=True)
def weigh(logits: Logits, inverse: int, weights: Weights, blocks: Blocks) -> np.uint64:
    """Steps 2 to 5: fill ``weights`` uint32 [V] and ``blocks`` uint64 [ceil(V / 256)].

    ``inverse`` is Q12 in [1, 2**15]. Returns W.
    """
    best = highest(logits)
    b = np.int32(inverse)
    for i in range(len(weights)):  # apart from the sums, so that it becomes 32-bit SIMD
        weights[i] = power_of_two(np.int32(best - logits[i]), b)
    total = np.uint64(0)
    for k in range(len(blocks)):
        part = np.uint64(0)
        for w in weights[k * BLOCK : (k + 1) * BLOCK]:
            part += np.uint64(w)
        blocks[k] = part
        total += part
    return total


@njit(cache=True, nogil=True)
def enlist(
    ids: NDArray[np.int32], weights: Weights, blocks: Blocks, listed: NDArray[np.uint16]
) -> np.uint64:
    """Take distinct ``ids`` out of the others (step 6); returns the weight taken.

    ``listed`` uint16 [V + blocks]: a mark per token, then a count per block; all zero before
    the first call. ``delist`` zeroes it again.
    """
    size = len(weights)
    taken = np.uint64(0)
    for i in range(len(ids)):
        token = ids[i]
        w = np.uint64(weights[token])
        taken += w
        weights[token] = 0
        blocks[token >> 8] -= w
        listed[token] = 1
        listed[size + (token >> 8)] += 1
    return taken


@njit(cache=True, nogil=True)
def delist(ids: NDArray[np.int32], listed: NDArray[np.uint16], size: int) -> None:
    """Clear the marks of ``ids`` (not the weights: the next ``weigh`` writes those)."""
    for i in range(len(ids)):
        listed[ids[i]] = 0
        listed[size + (ids[i] >> 8)] = 0


@njit(cache=True, nogil=True)
def _shift(total: np.uint64) -> np.uint64:
    shift = np.uint64(0)
    while (total >> shift) >= _TOTAL:
        shift += np.uint64(1)
    return shift


@njit(cache=True, nogil=True)
def _bound(
    mass: np.uint64,
    count: np.uint64,
    total: np.uint64,
    shift: np.uint64,
    others: np.uint64,
    base: np.uint64,
) -> np.uint64:
    """low() of step 7 for C = ``mass``, j = ``count``, n = ``others``, A = ``base``."""
    scale = _TOTAL - base - others
    if total == np.uint64(0):
        return base + count + count * scale // others
    return base + count + (mass >> shift) * scale // (total >> shift)


@njit(cache=True, nogil=True)
def interval(
    token: int,
    weights: Weights,
    blocks: Blocks,
    listed: NDArray[np.uint16],
    total: np.uint64,
    others: int,
    base: int,
) -> tuple[np.uint64, np.uint64]:
    """(low, share) of an unlisted token. ``total`` is W', ``others`` n, ``base`` A."""
    size = len(weights)
    k = token >> 8
    mass = np.uint64(0)
    count = np.uint64(k * BLOCK)
    for i in range(k):
        mass += blocks[i]
        count -= np.uint64(listed[size + i])
    for i in range(k * BLOCK, token):
        mass += np.uint64(weights[i])
        count += np.uint64(1 - listed[i])
    n = np.uint64(others)
    a = np.uint64(base)
    total = np.uint64(total)  # a Python int would make the products signed
    shift = _shift(total)
    low = _bound(mass, count, total, shift, n, a)
    mass += np.uint64(weights[token])
    return low, _bound(mass, count + np.uint64(1), total, shift, n, a) - low


@njit(cache=True, nogil=True)
def find(
    target: int,
    weights: Weights,
    blocks: Blocks,
    listed: NDArray[np.uint16],
    total: np.uint64,
    others: int,
    base: int,
) -> tuple[int, np.uint64, np.uint64]:
    """(token, low, share) of the unlisted token whose share holds ``target`` in [A, 2**32)."""
    size = len(weights)
    goal = np.uint64(target)
    n = np.uint64(others)
    a = np.uint64(base)
    total = np.uint64(total)  # a Python int would make the products signed
    shift = _shift(total)
    mass = np.uint64(0)
    count = np.uint64(0)
    low = a
    block = 0
    for k in range(len(blocks)):
        width = min(BLOCK, size - k * BLOCK) - np.int64(listed[size + k])
        after_mass = mass + blocks[k]
        after_count = count + np.uint64(width)
        high = _bound(after_mass, after_count, total, shift, n, a)
        block = k
        if high > goal:
            break
        mass = after_mass
        count = after_count
        low = high
    for i in range(block * BLOCK, min(size, block * BLOCK + BLOCK)):
        if listed[i] == 0:
            mass += np.uint64(weights[i])
            count += np.uint64(1)
            high = _bound(mass, count, total, shift, n, a)
            if high > goal:
                return i, low, high - low
            low = high
    return -1, low, np.uint64(0)  # only for a target outside [A, 2**32)


def frequencies(logits: Logits, inverse: int = ONE_Q12) -> NDArray[np.uint32]:
    """All shares at once: uint32 [V], sum exactly 2**32, each >= 1. For digests and reports."""
    size = len(logits)
    weights = np.empty(size, np.uint32)
    total = weigh(logits, inverse, weights, np.empty(block_count(size), np.uint64))
    shift = np.uint64(max(0, int(total).bit_length() - TOTAL_BITS))
    mass = np.concatenate([np.zeros(1, np.uint64), np.cumsum(weights, dtype=np.uint64)])
    scaled = (mass >> shift) * np.uint64((1 << 32) - size) // (total >> shift)
    shares: NDArray[np.uint32] = (np.diff(scaled) + np.uint64(1)).astype(np.uint32)
    return shares


@njit(cache=True, nogil=True)
def nucleus(
    logits: Logits, weights: Weights, total: np.uint64, top_p_q16: int
) -> tuple[np.int32, np.int64]:
    """(logit, id) of the last kept token of the nucleus, 0 <= top_p <= 65536.

    A token is kept where its logit is higher, or equal with an id not above.
    """
    need = (total * np.uint64(top_p_q16) + np.uint64(65535)) >> np.uint64(16)
    best = highest(logits)
    # Bins of depth in logits, 1/32 bit at T = 1; the last one holds all deeper tokens.
    mass = np.zeros(_NUCLEUS_BINS, np.uint64)
    for i in range(len(logits)):
        mass[min((best - logits[i]) >> 11, _NUCLEUS_BINS - 1)] += np.uint64(weights[i])
    have = np.uint64(0)
    edge = 0
    while edge < _NUCLEUS_BINS - 1 and have + mass[edge] < need:
        have += mass[edge]
        edge += 1
    picked = np.empty(len(logits), np.int64)
    count = 0
    for i in range(len(logits)):
        depth = np.int64(best) - np.int64(logits[i])
        if min(depth >> 11, _NUCLEUS_BINS - 1) == edge:
            picked[count] = (depth << 18) | i  # ids are below 2**18
            count += 1
    order = np.sort(picked[:count])
    last = order[0]
    for rank in range(count):
        last = order[rank]
        have += np.uint64(weights[last & (MAX_VOCAB - 1)])
        if have >= need:
            break
    return np.int32(best - (last >> 18)), last & (MAX_VOCAB - 1)
