"""Coupled coding: the weak model's distribution once the luck of the draw is known.

The strong model sent ``s = argmax(log2 p / T + g)``. Both ends know the noise g (``noise.py``)
and the weak model's q, so they code s under the posterior family ::

    P(i) ~ 2**(a * log2 q(i) / T + b * g(i))

over the *whole* vocabulary. Why two exponents: where the models are close, log p - log q is a
small error e, and the winner is the largest of (log q + g) + e: a = b = 1 / tau > 1, the
softmax of the noisy score (exact if e were Gumbel noise of scale tau). Where they are far, g
matters for the few tokens that p holds likely, while q's own tail has a thousand tokens with
more luck than any of those: then b < 1 < a. b = 0, a = 1 is plain coding, so that a coupled
answer does not cost more than a plain one once a and b have been learned.

a and b take one gradient step on the code length after each token, each by the sent token's
feature less its expectation under P, 2**-8 of it, and are handed on by the calibration like
every other scalar. top_p changes p, not this code: a token that it removed never comes.

Steps for every token i, integers throughout (``>>`` floors):
1. depth: ``d = min(((top - logit) * inverse) >> 16, 2**23 - 1)``, Q16; ``inverse`` = 1/T, Q16.
2. luck: g in Q16. Words r >= 2**32 - 2**26 (one in 64) take ``token_noise >> 8``; others the
   noise at the middle of r's bin of 2**20, from a table: within 2**-5 of a bit, which changes
   P by nothing that can be measured, and P alone (the *sampler* is exact elsewhere).
3. ``f = (b * g - a * d) >> 16``; |f| < 2**27 with a, b <= 2**19.
4. weight ``2**(f - max f)`` by ``dist.power_of_two``: 32 bits; sums of 256 as in ``dist.weigh``.
5. Expectations of d and g under the weights, by weights >> 12: sums below 2**61.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding.tokens import noise
from narrows.models import distribution as dist

EXPONENT_MIN, EXPONENT_MAX = 0, 1 << 19
_DEPTH_MAX = (1 << 23) - 1
_LUCKY = np.uint32(2**32 - 2**26)
_STEP_SHIFT = 8
_STEP_MAX = 8 << 16


def _luck_table() -> NDArray[np.int32]:
    middle = [np.uint64(((k << 20) + (1 << 19)) << 32) for k in range(4096)]
    return np.array([noise.gumbel(u) >> 8 for u in middle], np.int32)


_LUCK = _luck_table()


@njit(cache=True, nogil=True)
def weigh(
    logits: NDArray[np.int32],
    inverse_q16: int,
    row: NDArray[np.uint32],
    exponents: NDArray[np.int64],
    words: NDArray[np.uint32],
    depths: NDArray[np.int32],
    lucks: NDArray[np.int32],
    weights: NDArray[np.uint32],
    blocks: NDArray[np.uint64],
    means: NDArray[np.int64],
) -> np.uint64:
    """Fill everything from ``words`` on; returns the sum of the weights, >= 2**32 - 1.

    ``exponents``: a and b, Q16. ``depths``, ``lucks``: d and g of every token. ``means``: their
    expectations. ``words``: scratch, padded."""
    noise.words(row, words)
    top = np.int64(dist.highest(logits))
    a, b = exponents[0], exponents[1]
    size = len(logits)
    for i in range(size):
        depths[i] = np.int32(min(((top - logits[i]) * inverse_q16) >> 16, _DEPTH_MAX))
    for i in range(size):
        r = words[i]
        lucks[i] = _LUCK[r >> np.uint32(20)]
        if r >= _LUCKY:
            lucks[i] = np.int32(noise.token_noise(row, i, r) >> 8)
    best = np.int64(-(1 << 40))
    for i in range(size):
        best = max(best, (b * lucks[i] - a * depths[i]) >> 16)
    for i in range(size):
        f = (b * lucks[i] - a * depths[i]) >> 16
        weights[i] = dist.power_of_two(np.int32(best - f), np.int32(dist.ONE_Q12))
    total = np.uint64(0)
    for k in range(len(blocks)):
        part = np.uint64(0)
        for w in weights[k * dist.BLOCK : (k + 1) * dist.BLOCK]:
            part += np.uint64(w)
        blocks[k] = part
        total += part
    depth = lucky = whole = np.int64(0)
    for i in range(size):
        w = np.int64(weights[i] >> np.uint32(12))
        depth += w * depths[i]
        lucky += w * lucks[i]
        whole += w
    means[0] = depth // whole
    means[1] = lucky // whole
    return total


@njit(cache=True, nogil=True)
def learn(
    token: int,
    depths: NDArray[np.int32],
    lucks: NDArray[np.int32],
    means: NDArray[np.int64],
    exponents: NDArray[np.int64],
) -> None:
    """One gradient step of a and b on the code length of ``token``."""
    _step(exponents, 0, means[0] - depths[token])
    _step(exponents, 1, lucks[token] - means[1])


@njit(cache=True, nogil=True)
def _step(exponents: NDArray[np.int64], which: int, gradient: np.int64) -> None:
    step = max(np.int64(-_STEP_MAX), min(np.int64(_STEP_MAX), gradient)) >> _STEP_SHIFT
    exponents[which] = max(EXPONENT_MIN, min(EXPONENT_MAX, exponents[which] + step))
