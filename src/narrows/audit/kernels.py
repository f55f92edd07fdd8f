"""The arithmetic of the audit code: the race that the sampler ran, and who came near the winner.

Every kept token i has a depth under the best logit and, with noise, a luck, both in Q24 bits::

    score(i) = 2**8 * g(i) - (top - logit(i)) * inverse       as ``coding/tokens/sampler.py``, Q32
    f(i)     = (a * (g(i) - d(i))) >> 16                      Q16 bits; a in Q8

The *winner* has the highest score, ties to the lower id: it is what the sampler sends where its
arithmetic is this one. Listed are the winner and all tokens with f above the best f less 32
bits, which are all that 32-bit weights can tell from nothing.

Most tokens are ruled out by one comparison: g > t needs v < 2**-t, where v = 1 - u is known to 32
bits (``noise.py``); t is what f or the score would need. That leaves f and the list exact.
Ranges: a < 2**21, d <= 2**31, |g| < 2**31: products below 2**52.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding.tokens import noise
from narrows.models import distribution as dist

WINDOW_Q16 = 32 << 16
DEPTH_MAX_Q24 = 1 << 31


@njit(cache=True, nogil=True)
def depth_q24(top: np.int64, logit: np.int64, inverse: int) -> np.int64:
    depth = np.int64((top - logit) * inverse) >> 8
    return np.int64(min(depth, np.int64(DEPTH_MAX_Q24)))


@njit(cache=True, nogil=True)
def nearness(luck: int, top: np.int64, logit: np.int64, inverse: int, a: int) -> np.int64:
    """f of one token."""
    return np.int64((a * (luck - depth_q24(top, logit, inverse))) >> 16)


@njit(cache=True, nogil=True)
def race(
    logits: NDArray[np.int32],
    inverse: int,
    last_logit: int,
    last_id: int,
    noisy: bool,
    row: NDArray[np.uint32],
    a: int,
    words: NDArray[np.uint32],
    ids: NDArray[np.int32],
    scores: NDArray[np.int64],
) -> tuple[int, int, int]:
    """(listed, winner, best logit). Fills ``ids`` and f in ``scores``. ``last_logit`` and
    ``last_id``: the last kept token, as of ``dist.nucleus``. ``noisy`` false: g is 0 (T = 0)."""
    top_id = 0
    for i in range(len(logits)):
        if logits[i] > logits[top_id]:
            top_id = i
    top = np.int64(logits[top_id])
    winner = top_id
    luck = np.int64(0)
    if noisy:
        noise.words(row, words)
        luck = noise.token_noise(row, top_id, words[top_id])
    best_score = luck << 8
    best = (a * luck) >> 16
    count = 0
    for i in range(len(logits)):
        if logits[i] < last_logit or (logits[i] == last_logit and i > last_id):
            continue
        depth = depth_q24(top, np.int64(logits[i]), inverse)
        g = np.int64(0)
        if noisy:
            need = ((best - WINDOW_Q16) << 16) // a + depth
            by_score = (best_score + (top - logits[i]) * inverse) >> 8
            n = max(0, min(31, min(need, by_score) >> 24))
            if ~words[i] & np.uint32(0xFFFFFFFF) > np.uint32(0xFFFFFFFF) >> np.uint32(n):
                continue
            g = noise.token_noise(row, i, words[i])
        score = (g << 8) - (top - logits[i]) * inverse
        if score > best_score or (score == best_score and i < winner):
            best_score = score
            winner = i
        f = (a * (g - depth)) >> 16
        best = max(best, f)
        if f > best - WINDOW_Q16:
            ids[count] = i
            scores[count] = f
            count += 1
    kept = 0
    for k in range(count):
        if scores[k] > best - WINDOW_Q16:
            ids[kept] = ids[k]
            scores[kept] = scores[k]
            kept += 1
    return kept, winner, int(top)


@njit(cache=True, nogil=True)
def weigh(scores: NDArray[np.int64], count: int, weights: NDArray[np.uint64]) -> np.uint64:
    """2**(f - max f) of the listed, up to 2**32 each; their sum."""
    best = scores[0]
    for k in range(count):
        best = max(best, scores[k])
    total = np.uint64(0)
    for k in range(count):
        under = np.int32(min(best - scores[k], WINDOW_Q16 << 1))
        weights[k] = np.uint64(dist.power_of_two(under, np.int32(dist.ONE_Q12)))
        total += weights[k]
    return total


@njit(cache=True, nogil=True)
def kept_mass(
    logits: NDArray[np.int32],
    weights: NDArray[np.uint32],
    last_logit: int,
    last_id: int,
) -> np.uint64:
    """Sum of ``weights`` over the kept tokens; sets those of the others to 0."""
    total = np.uint64(0)
    for i in range(len(logits)):
        if logits[i] < last_logit or (logits[i] == last_logit and i > last_id):
            weights[i] = 0
        total += np.uint64(weights[i])
    return total
