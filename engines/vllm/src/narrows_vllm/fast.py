"""The whole row in one compiled pass: what ``pick`` says. Importing this needs numba."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True, inline="always")
def _philox(c0, c1, c2, c3, k0, k1):  # type: ignore[no-untyped-def]  # inlined; all uint32
    for _ in range(10):
        left = np.uint64(c0) * np.uint64(0xD2511F53)
        right = np.uint64(c2) * np.uint64(0xCD9E8D57)
        c0 = np.uint32(np.uint32(right >> np.uint64(32)) ^ c1 ^ k0)
        c2 = np.uint32(np.uint32(left >> np.uint64(32)) ^ c3 ^ k1)
        c1 = np.uint32(right)
        c3 = np.uint32(left)
        k0 = np.uint32(k0 + np.uint32(0x9E3779B9))
        k1 = np.uint32(k1 + np.uint32(0xBB67AE85))
    return c0, c1, c2, c3


@njit(cache=True, nogil=True)
def _luck(token: int, word: np.uint32, row: NDArray[np.uint32]) -> float:
    more = np.uint32(1 << 31)
    if word >= np.uint32(0xFFF00000):
        first = np.uint32(((token >> 10) << 8) | (token & 255))
        lanes = _philox(first, np.uint32(1), row[2], row[3], row[0], row[1])
        more = lanes[(token >> 8) & 3]
    u = (np.uint64(word) << np.uint64(32)) | np.uint64(more)
    u = max(u, np.uint64(1))
    rest = np.uint64(0) - u
    if rest >= np.uint64(1 << 60):
        return -math.log2(-math.log(np.float64(u) / 18446744073709551616.0))
    return -math.log2(-math.log1p(-np.float64(rest) / 18446744073709551616.0))


@njit(cache=True, nogil=True)
def winner(
    logits: NDArray[np.float32], likely: int, per_logit: float, row: NDArray[np.uint32]
) -> int:
    """The winner among all tokens. ``likely``: the id of the highest logit, which is finite;
    ``per_logit``: log2 units of one logit."""
    size = len(logits)
    top = np.float64(logits[likely])
    words = np.empty((4, 256), np.uint32)
    zero = np.uint32(0)
    full = np.uint32(0xFFFFFFFF)
    place = np.uint32(((likely >> 10) << 8) | (likely & 255))
    lanes = _philox(place, zero, row[2], row[3], row[0], row[1])
    best = _luck(likely, lanes[(likely >> 8) & 3], row)
    chosen = likely
    for group in range((size + 1023) // 1024):
        first = np.uint32(group << 8)
        for lane in range(256):
            a, b, c, d = _philox(
                np.uint32(first + np.uint32(lane)), zero, row[2], row[3], row[0], row[1]
            )
            words[0, lane] = a
            words[1, lane] = b
            words[2, lane] = c
            words[3, lane] = d
        flat = words.reshape(1024)
        base = group * 1024
        for at in range(min(1024, size - base)):
            depth = (top - np.float64(logits[base + at])) * per_logit
            need = depth + best  # a token wins with luck above this alone
            if not need < 64.0:
                continue
            shift = np.uint32(min(31.0, max(0.0, need)))
            if np.uint32(flat[at] ^ full) > np.uint32(full >> shift):
                continue
            score = _luck(base + at, flat[at], row) - depth
            if score > best or (score == best and base + at < chosen):
                best = score
                chosen = base + at
    return chosen
