"""Gumbel noise that enclave and edge both know: a function of (noise key, position, token).

Families (``events.NoiseFamily``) differ in how words come from key and position: below is ours;
those of servers that draw with a seed are in ``seeds.py``. A row says which family it is of.

Specification
1. Row: ``SHA-256("narrows noise 1" || noise_key [32] || position as 8 bytes, big-endian)``;
   its first four 32-bit words, big-endian, are k0, k1, c2, c3.
2. Words: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
   under the key (k0, k1). Token i takes word ``(i >> 8) & 3`` of the counter
   ``(((i >> 10) << 8) | (i & 255), 0, c2, c3)``, so it depends on no vocabulary's size.
   Call it r. Where r >= 2**32 - 2**20 (the tail that decides for improbable tokens), 32 more
   bits x come from the same word of the counter with 1 in second place; otherwise x = 2**31.
3. Uniform: ``u = max(1, r * 2**32 + x)`` of 2**64, ``v = 2**64 - u``.
4. Noise: g = -log2(-ln(u / 2**64)), that is a Gumbel variate divided by ln 2, so that it adds
   to log2 probabilities. Q24, from ``log2_q40`` (Q40)::

       v >= 2**56:  L = (64 << 40) - log2(u);  g = -(log2(L) - (40 << 40)) - log2(ln 2)
       otherwise:   s = -ln(1 - v) / v as 1 + v/2 + v^2/3 + v^3/4 in Q32
                    g = -(log2(v) - (64 << 40)) - (log2(s) - (32 << 40))

   |error of g as a function of u| < 2**-21; u itself is on a grid of relative width 2**-20
   at worst (v = 2**52, just outside the tail). ``docs/coupled.md`` turns both into a bound on
   the sampled distribution. -6.5 < g < 64.
5. ``log2_q40(y)``, y in [1, 2**64): with e = bit_length - 1, m = y << (63 - e), table index
   k = the 8 bits below the leading one, t = (m >> 32) * INVERSE[k] - 2**63, z = t >> 23 (Q40),
   ``log2(y) = (e << 40) + LOG[k] + (A * (z - z*z/2 + z*z*z/3))``, A = 1 / ln 2; exact shifts
   in ``log2_q40``. Tables come from ``decimal``, which rounds ln correctly: the same everywhere.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal, localcontext

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding.events import Noise, NoiseFamily
from narrows.coding.tokens import seeds
from narrows.errors import InputError

NOISE_FRACTION_BITS = 24
NOISE_KEY_BYTES = 32
GROUP = 1024  # tokens per run of counters; word buffers are padded to a multiple
_TAIL = np.uint32(2**32 - 2**20)
_HALF = np.uint32(1 << 31)
_KEYED = np.uint32(NoiseFamily.KEYED)
_VLLM = np.uint32(NoiseFamily.SEED_VLLM)
_SGLANG = np.uint32(NoiseFamily.SEED_SGLANG)

Row = NDArray[np.uint32]


def _tables() -> tuple[NDArray[np.uint64], NDArray[np.int64], int, int]:
    with localcontext() as context:
        context.prec = 40
        ln2 = Decimal(2).ln()
        inverse, log = [], []
        for k in range(256):
            reciprocal = round(Decimal(2**32) * 512 / (513 + 2 * k))
            inverse.append(reciprocal)
            log.append(round(-(Decimal(reciprocal) / 2**32).ln() / ln2 * 2**40))
        return (
            np.array(inverse, np.uint64),
            np.array(log, np.int64),
            round(2**30 / ln2),
            round(-(ln2.ln() / ln2) * 2**40),
        )


_INVERSE, _LOG, _PER_LN2_Q30, _MINUS_LOG2_LN2 = _tables()


def noise_row(noise_key: bytes, position: int) -> Row:
    """k0, k1, c2, c3 (step 1), and the family: uint32 [5]. ``position`` counts an answer's
    tokens from 0."""
    if len(noise_key) != NOISE_KEY_BYTES or not 0 <= position < 2**63:
        raise InputError("noise needs a key of 32 bytes and a position that is not negative")
    digest = hashlib.sha256(b"narrows noise 1" + noise_key + position.to_bytes(8, "big"))
    row = np.empty(5, np.uint32)
    row[:4] = np.frombuffer(digest.digest(), ">u4", 4)
    row[4] = _KEYED
    return row


def row_of(noise: Noise, noise_key: bytes, position: int) -> Row:
    """The row of any family; a seed's has the hash's state in the first place. ``position``
    counts the answer's tokens, from wherever the family's own positions start."""
    if noise.family is NoiseFamily.KEYED:
        return noise_row(noise_key, position)
    at = noise.start + position
    if len(noise_key) != NOISE_KEY_BYTES or min(noise.start, position) < 0 or at >= 2**32:
        raise InputError("noise of a seed needs a key of 32 bytes and a position below 2**32")
    state = seeds.hash_state(seeds.seed_of(noise_key), at)
    return np.array([state, 0, 0, 0, noise.family], np.uint32)


@njit(cache=True, nogil=True, inline="always")
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]  # inlined; all uint32
    for _ in range(10):
        p0 = np.uint64(c0) * np.uint64(0xD2511F53)
        p1 = np.uint64(c2) * np.uint64(0xCD9E8D57)
        c0 = np.uint32(np.uint32(p1 >> np.uint64(32)) ^ c1 ^ k0)
        c2 = np.uint32(np.uint32(p0 >> np.uint64(32)) ^ c3 ^ k1)
        c1 = np.uint32(p1)
        c3 = np.uint32(p0)
        k0 = np.uint32(k0 + np.uint32(0x9E3779B9))
        k1 = np.uint32(k1 + np.uint32(0xBB67AE85))
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def philox(counter: Row, key: Row) -> Row:
    """One Philox4x32-10 block: uint32 [4] under uint32 [2]."""
    a, b, c, d = _philox(counter[0], counter[1], counter[2], counter[3], key[0], key[1])
    out = np.empty(4, np.uint32)
    out[0], out[1], out[2], out[3] = a, b, c, d
    return out


@njit(cache=True, nogil=True)
def words(row: Row, out: NDArray[np.uint32]) -> None:
    """r of every token (step 2): uint32 [padded], a multiple of 1024 long."""
    if row[4] != _KEYED:
        seeds.seed_words(row[0], _flip(row), out)
        return
    k0, k1, c2, c3 = row[0], row[1], row[2], row[3]
    zero = np.uint32(0)
    for group in range(len(out) // GROUP):
        block = out[group * GROUP : (group + 1) * GROUP].reshape(4, 256)
        first = np.uint32(group << 8)
        for lane in range(256):
            a, b, c, d = _philox(np.uint32(first + np.uint32(lane)), zero, c2, c3, k0, k1)
            block[0, lane] = a
            block[1, lane] = b
            block[2, lane] = c
            block[3, lane] = d


@njit(cache=True, nogil=True)
def log2_q40(y: np.uint64) -> np.int64:
    """log2(y) in Q40, error below 2**-30 (step 5); y >= 1."""
    e = np.int64(63)
    m = y
    for width in (32, 16, 8, 4, 2, 1):
        if m >> np.uint64(64 - width) == np.uint64(0):
            m <<= np.uint64(width)
            e -= width
    k = np.int64((m >> np.uint64(55)) & np.uint64(255))
    t = np.int64((m >> np.uint64(32)) * _INVERSE[k] - np.uint64(1 << 63))
    z = t >> 23  # Q40, |z| < 2**31.1: 1/512 and the rounding of the reciprocal
    square = (z * z) >> 40  # Q40, |z * z| < 2**62.2
    cube = (square * z) >> 40
    natural = z - (square >> 1) + cube // 3
    return np.int64((e << 40) + _LOG[k] + ((natural * _PER_LN2_Q30) >> 30))  # product < 2**62


@njit(cache=True, nogil=True)
def gumbel(u: np.uint64) -> np.int64:
    """Step 4: Q24 noise of u in [1, 2**64)."""
    v = np.uint64(0) - u
    if v >= np.uint64(1 << 56):
        minus_log2 = (np.int64(64) << 40) - log2_q40(u)
        g = (np.int64(40) << 40) - log2_q40(np.uint64(max(minus_log2, 1))) + _MINUS_LOG2_LN2
    else:
        f = np.int64(v >> np.uint64(32))  # Q32, below 2**24
        square = (f * f) >> 32
        s = (np.int64(1) << 32) + (f >> 1) + square // 3 + ((square * f) >> 34)
        g = (np.int64(96) << 40) - log2_q40(v) - log2_q40(np.uint64(s))
    return np.int64(g >> 16)


@njit(cache=True, nogil=True)
def _flip(row: Row) -> np.uint32:
    """vLLM counts its uniform from the other end."""
    return np.uint32(0xFFFFFFFF) if row[4] == _VLLM else np.uint32(0)


@njit(cache=True, nogil=True)
def _seeded(row: Row, r: np.uint32) -> np.uint64:
    """u of a seed's word r."""
    x = seeds.sglang_second(r) if row[4] == _SGLANG else _HALF
    return np.uint64(max(np.uint64(1), (np.uint64(r) << np.uint64(32)) | np.uint64(x)))


@njit(cache=True, nogil=True)
def token_word(row: Row, token: int, second: int) -> np.uint32:
    """The word of ``token`` (step 2) in the counter with ``second`` in second place."""
    c0 = np.uint32(((token >> 10) << 8) | (token & 255))
    lanes = _philox(c0, np.uint32(second), row[2], row[3], row[0], row[1])
    return np.uint32(lanes[(token >> 8) & 3])


@njit(cache=True, nogil=True)
def token_uniform(row: Row, token: int) -> np.uint64:
    """A uniform in [1, 2**64) of ``token``: step 3's u, but with 32 bits x of its own below the
    tail too, where u is a multiple of 2**32 and a half. A seed's has 32 bits in all."""
    if row[4] != _KEYED:
        return np.uint64(_seeded(row, seeds.hash_word(row[0], np.uint32(token)) ^ _flip(row)))
    high, low = np.uint64(token_word(row, token, 0)), np.uint64(token_word(row, token, 1))
    return np.uint64(max(np.uint64(1), (high << np.uint64(32)) | low))


@njit(cache=True, nogil=True)
def token_noise(row: Row, token: int, r: np.uint32) -> np.int64:
    """Q24 noise of ``token``, whose word ``r`` is known from ``words``."""
    if row[4] != _KEYED:
        return np.int64(gumbel(_seeded(row, r)))
    x = _HALF
    if r >= _TAIL:
        x = token_word(row, token, 1)
    return np.int64(gumbel(max(np.uint64(1), (np.uint64(r) << np.uint64(32)) | np.uint64(x))))


def padded(vocab_size: int) -> int:
    """Length of a buffer for ``words``."""
    return -(-vocab_size // GROUP) * GROUP
