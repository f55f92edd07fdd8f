"""The noise of (key, position, token), after the specification in narrows' ``docs/coupled.md``.

Written apart from narrows' own; ``tests/coding/data/noise_vectors.json`` holds both to the same
values. Words are exact. The Gumbel function is taken in float64 here, where narrows rounds it
to Q24: the two differ by less than 2**-20 (the vectors say so), and only the strong model's side
calls this one, so nothing has to agree to the last bit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 32
MAX_POSITION = 1 << 40
TAIL = 2**32 - 2**20
"""Words from here on take 32 more bits."""

_LABEL = b"narrows noise 1"
_MASK = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)

Words = NDArray[np.uint64]


def row_of(key: bytes, position: int) -> tuple[int, int, int, int]:
    """k0, k1, c2, c3 of one token's noise. ValueError: no key of 32 bytes, or no position."""
    if len(key) != KEY_BYTES or not 0 <= position < 1 << 63:
        raise ValueError("a key of 32 bytes and a position from 0 are needed")
    digest = hashlib.sha256(_LABEL + key + position.to_bytes(8, "big")).digest()
    k0, k1, c2, c3 = (int.from_bytes(digest[at : at + 4], "big") for at in (0, 4, 8, 12))
    return k0, k1, c2, c3


def philox(counter: Sequence[Words], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Philox4x32-10 of many counters at once; every array holds 32-bit values in uint64."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (right >> _HALF) ^ c1 ^ np.uint64(k0),
            right & _MASK,
            (left >> _HALF) ^ c3 ^ np.uint64(k1),
            left & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def _block(tokens: Words, second: int, row: tuple[int, int, int, int]) -> Words:
    """The word of each token under a counter whose second place holds ``second``."""
    first = ((tokens >> np.uint64(10)) << np.uint64(8)) | (tokens & np.uint64(255))
    same = np.ones_like(tokens)
    counter = (first, same * np.uint64(second), same * np.uint64(row[2]), same * np.uint64(row[3]))
    lanes = np.stack(philox(counter, (row[0], row[1])))
    which = ((tokens >> np.uint64(8)) & np.uint64(3)).astype(np.intp)
    picked: Words = np.take_along_axis(lanes, which[None, :], 0)[0]
    return picked


def words(tokens: NDArray[np.int64], row: tuple[int, int, int, int]) -> Words:
    """The word of each of ``tokens``."""
    return _block(tokens.astype(np.uint64), 0, row)


def all_words(row: tuple[int, int, int, int], size: int) -> Words:
    """The word of every token below ``size``."""
    groups = -(-size // 1024)
    first = np.arange(groups * 256, dtype=np.uint64)
    same = np.ones_like(first)
    counter = (first, np.zeros_like(first), same * np.uint64(row[2]), same * np.uint64(row[3]))
    lanes = philox(counter, (row[0], row[1]))
    return np.stack([lane.reshape(groups, 256) for lane in lanes], 1).reshape(-1)[:size]


def luck(tokens: NDArray[np.int64], own: Words, row: tuple[int, int, int, int]) -> list[float]:
    """g of each of ``tokens`` in log2 units, from its ``own`` word."""
    ids = tokens.astype(np.uint64)
    more = np.full(len(ids), 1 << 31, np.uint64)
    late = own >= np.uint64(TAIL)
    if late.any():
        more[late] = _block(ids[late], 1, row)
    return [gumbel((int(r) << 32) | int(x)) for r, x in zip(own, more, strict=True)]


def gumbel(u: int) -> float:
    """-log2(-ln(u / 2**64)); 0 counts as 1."""
    rest = 2**64 - max(1, u)
    # Near 1 the rest is exact where u / 2**64 would be rounded to 1.
    minus_log = -math.log(max(1, u) / 2**64) if rest >= 2**60 else -math.log1p(-rest / 2**64)
    return -math.log2(minus_log)
