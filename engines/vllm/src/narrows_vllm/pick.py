"""One token out of one row of logits: the argmax of log2 p + noise over what the request keeps.

    depth(i) = (top - logit(i)) / (T ln 2)            log2 units below the best token
    min_p    drops depth(i) > -log2(min_p)
    top_k    keeps the k best, and whoever equals the last of them
    top_p    keeps the shortest prefix by (logit, then lower id) that reaches top_p of what is left
    winner   argmax(noise(i) - depth(i)), ties to the lower id

A token at a depth of d can only win with luck above d + (the best token's luck), which its word
shows by one shift and one comparison, so the noise is worked out for few.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from narrows_vllm import noise

try:
    from narrows_vllm import fast
except ImportError:  # no numba here: numpy does the same, slower
    fast = None  # type: ignore[assignment]

_FULL = np.uint64(0xFFFFFFFF)
_FEW = 4096  # tokens whose words are worked out one by one

Row = NDArray[np.float32]
Depths = NDArray[np.float64]


@dataclass(frozen=True)
class Shape:
    """How a request shapes the distribution. ``temperature`` > 0, 1 where it is applied already;
    ``top_k`` 0: all; ``top_p`` 1: all; ``min_p`` 0: all."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0

    @property
    def whole(self) -> bool:
        return self.top_p >= 1.0 and self.top_k <= 0 and self.min_p <= 0.0


def pick(logits: Row, key: bytes, position: int, shape: Shape) -> int | None:
    """The token; None for a row that is no distribution (NaN, +inf, or nothing but -inf)."""
    if not len(logits):
        return None
    likely = int(logits.argmax())  # of a NaN, if there is one
    top = float(logits[likely])
    if not math.isfinite(top):
        return None
    row = noise.row_of(key, position)
    per_logit = 1.0 / (shape.temperature * math.log(2.0))
    if not shape.whole or fast is None:
        depths = (top - logits.astype(np.float64)) * per_logit
        if not shape.whole:
            depths = _kept(depths, shape)
        if fast is None:
            return _winner(depths, row)
        logits = np.where(np.isinf(depths), -np.inf, logits).astype(np.float32)
    return int(fast.winner(logits, likely, per_logit, np.array(row, np.uint32)))


def _kept(depths: Depths, shape: Shape) -> Depths:
    """The same with inf for what the request does not keep."""
    if shape.min_p > 0:
        depths = np.where(depths > -math.log2(shape.min_p), np.inf, depths)
    if 0 < shape.top_k < len(depths):
        last = np.partition(depths, shape.top_k - 1)[shape.top_k - 1]
        depths = np.where(depths > last, np.inf, depths)
    if shape.top_p < 1:
        need = shape.top_p * float(np.exp2(-depths).sum())
        # All that lies deeper is together less than what top_p leaves out.
        near = np.flatnonzero(depths <= math.log2(len(depths) / (1 - shape.top_p)))
        order = near[np.argsort(depths[near], kind="stable")]
        mass = np.cumsum(np.exp2(-depths[order]))
        keep = order[: int(np.searchsorted(mass, need)) + 1]
        kept = np.full_like(depths, np.inf)
        kept[keep] = depths[keep]
        depths = kept
    return depths


def _winner(depths: Depths, row: tuple[int, int, int, int]) -> int:
    ids = np.flatnonzero(depths < 128)  # no luck reaches further
    left = depths[ids]
    words = noise.words(ids, row) if len(ids) < _FEW else noise.all_words(row, len(depths))[ids]
    best = noise.luck(ids[[left.argmin()]], words[[left.argmin()]], row)[0]
    shift = np.clip(np.floor(left + best), 0, 31).astype(np.uint64)
    possible = np.flatnonzero((words ^ _FULL) <= (_FULL >> shift))
    ids, left, words = ids[possible], left[possible], words[possible]
    scores = np.array(noise.luck(ids, words, row)) - left
    return int(ids[int(scores.argmax())])
