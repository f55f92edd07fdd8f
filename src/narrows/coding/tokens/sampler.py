"""The strong model's sampler: an exact sample of p, decided by noise that the edge knows too.

``sample`` returns ``argmax(log2 p(i) / T + g(i))`` over the kept tokens, ties to the lower id;
g is the Gumbel noise of ``coding/tokens/noise.py``, so the result is distributed as softmax of
logits / T over the kept tokens (Gumbel-max), up to the fixed-point error that
``docs/coupled.md`` bounds. top_p keeps the nucleus under the *unfloored* distribution at that
temperature (``models/distribution.py``); T = 0 is greedy and takes no noise. Pure integers, one
position at a time: batch, threads and order cannot matter.

Scores are Q32 in int64: depth below the best logit (< 2**31, Q16) times 1/T (Q16, <= 2**20),
negated, plus g (Q24, |g| < 2**31) times 2**8: |score| < 2**52.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding.events import OWN_NOISE, Noise
from narrows.coding.tokens import noise
from narrows.errors import InputError
from narrows.models import distribution as dist

_MAX_INVERSE_Q16 = 1 << 20
ONE_Q16 = 1 << 16


def inverse_q16(temperature_q16: int) -> int:
    """1 / T in Q16, rounded to nearest, at most 16.0 (lower temperatures count as 1/16)."""
    return max(1, min(_MAX_INVERSE_Q16, ((1 << 33) // temperature_q16 + 1) >> 1))


@njit(cache=True, nogil=True)
def _greedy(logits: NDArray[np.int32]) -> int:
    best = 0
    for i in range(len(logits)):
        if logits[i] > logits[best]:
            best = i
    return best


@njit(cache=True, nogil=True)
def _argmax(
    logits: NDArray[np.int32],
    inverse: int,
    last_logit: int,
    last_id: int,
    row: NDArray[np.uint32],
    scratch: NDArray[np.uint32],
) -> int:
    noise.words(row, scratch)
    winner = _greedy(logits)  # kept by every nucleus
    top = np.int64(logits[winner])
    best = noise.token_noise(row, winner, scratch[winner]) << 8
    # A token at depth x (log2 units) can only win if g > x + best, that is v < 2**-(x + best):
    # one shift and one comparison rule out nearly all before their noise is computed.
    floor = best >> 16
    for i in range(len(logits)):
        depth = ((top - logits[i]) * inverse) >> 16
        n = max(0, min(31, (depth + floor) >> 16))
        if ~scratch[i] & np.uint32(0xFFFFFFFF) > np.uint32(0xFFFFFFFF) >> np.uint32(n):
            continue
        if logits[i] < last_logit or (logits[i] == last_logit and i > last_id):
            continue
        score = (noise.token_noise(row, i, scratch[i]) << 8) - (top - logits[i]) * inverse
        if score > best or (score == best and i < winner):
            best = score
            winner = i
            floor = best >> 16
    return int(winner)


def sample(
    logits: NDArray[np.int32],
    temperature_q16: int,
    top_p_q16: int,
    noise_key: bytes,
    position: int,
    drawn: Noise = OWN_NOISE,
) -> int:
    """One token. ``logits`` int32 [V] in Q16 log2 units; T and top_p in Q16, T >= 0,
    0 < top_p <= 65536; ``noise_key`` 32 bytes; ``position`` counts the answer's tokens;
    ``drawn``: another noise than narrows' own."""
    if temperature_q16 < 0 or not 0 < top_p_q16 <= ONE_Q16:
        raise InputError("temperature must not be negative, top_p in (0, 1]")
    if temperature_q16 == 0:
        return int(_greedy(logits))
    size = len(logits)
    last_logit, last_id = -(2**31), size
    if top_p_q16 < ONE_Q16:
        weights = np.empty(size, np.uint32)
        blocks = np.empty(dist.block_count(size), np.uint64)
        total = dist.weigh(logits, dist.inverse_q12(temperature_q16), weights, blocks)
        last_logit, last_id = dist.nucleus(logits, weights, total, top_p_q16)
    scratch = np.empty(noise.padded(size), np.uint32)
    row = noise.row_of(drawn, noise_key, position)
    return int(
        _argmax(logits, inverse_q16(temperature_q16), int(last_logit), int(last_id), row, scratch)
    )
