"""Coupled coding: the list of tokens that shared noise makes likely.

The strong model sent ``s = argmax(log2 p / T + g)``. Both ends know g (``noise.py``) and the
weak model's q, so the score ``a(i) = log2 q(i) / T + g(i)`` tells most of it: if log p - log q
were Gumbel noise of scale tau, s would have the distribution softmax(a / tau). Listed are the
tokens with scores within 8 bits of the best (fewer bits where they would be over 512), with
base score a(i) - max a; ``slope`` is 1 / tau, adapted online with everything else in
``token_code_kernels``. A share of q_T on top (a 64th of the mass) serves surprises; tokens
that are not listed follow q_T inside the escape. top_p changes p, not this code.

Scores are Q16: depth of the logit under the best one, times 1 / T (Q16), negated, plus g.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding import noise
from narrows.coding.token_code_kernels import LIST_MAX
from narrows.weak import distribution as dist

_WINDOW_BITS = 8


@njit(cache=True, nogil=True)
def list_coupled(
    logits: NDArray[np.int32],
    inverse_q16: int,
    row: NDArray[np.uint32],
    words: NDArray[np.uint32],
    ids: NDArray[np.int32],
    base: NDArray[np.int64],
) -> int:
    """Fill ``ids`` (ascending) and ``base``; returns K >= 1. ``words``: scratch, padded."""
    noise.words(row, words)
    top = np.int64(dist.highest(logits))
    best = np.int64(-(1 << 40))
    for i in range(len(logits)):  # the likeliest token's score bounds the best from below
        if logits[i] == top:
            best = max(best, noise.token_noise(row, i, words[i]) >> 8)
    window = np.int64(_WINDOW_BITS)
    while True:
        count = 0
        cut = best - (window << 16)
        for i in range(len(logits)):
            depth = ((top - logits[i]) * inverse_q16) >> 16
            # g > depth + cut means v < 2**-(depth + cut): see sampler._argmax.
            n = max(0, min(31, (depth + cut) >> 16))
            if ~words[i] & np.uint32(0xFFFFFFFF) > np.uint32(0xFFFFFFFF) >> np.uint32(n):
                continue
            a = (noise.token_noise(row, i, words[i]) >> 8) - depth
            if a < cut:
                continue
            if a > best:
                best = a
                cut = best - (window << 16)
            if count == len(ids):
                count = _drop(ids, base, count, cut)
            if count < len(ids):
                ids[count] = i
                base[count] = a
                count += 1
            else:
                count = len(ids) + 1
                break
        if count <= len(ids):
            count = _drop(ids, base, count, cut)
            if count <= LIST_MAX:
                break
        window -= 1
    for k in range(count):
        base[k] -= best
    return int(count)


@njit(cache=True, nogil=True)
def _drop(ids: NDArray[np.int32], base: NDArray[np.int64], count: int, cut: np.int64) -> int:
    """Keep what is not below ``cut``, in order; returns how many."""
    kept = 0
    for k in range(count):
        if base[k] >= cut:
            ids[kept] = ids[k]
            base[kept] = base[k]
            kept += 1
    return kept
