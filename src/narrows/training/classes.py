"""Fewer output classes than tokens while a small model learns.

Most of a large vocabulary never occurs in the answers of one model, yet every token of it costs
a row of the output product in every step. So tokens that the training data hardly knows share
one *rare* row, in the input and in the output. This is exact, not an approximation: the shared
row's logit enters the normaliser once per rare token (its logarithm is added as a constant), so
the loss is that of the full model in which all rare tokens have that row, which is what
``expand`` writes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class TokenClasses:
    """``of_token`` int32 [vocab]: the class of each token. Class ``size - 1`` is the rare one
    where ``rare`` > 0; the others hold one token each."""

    of_token: NDArray[np.int32]
    size: int
    rare: int

    @property
    def rare_bias(self) -> float:
        """What the rare class's logit gains in the normaliser: ln(rare tokens)."""
        return math.log(self.rare) if self.rare else 0.0

    def expand(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Rows by class [size, d] to rows by token [vocab, d]."""
        return np.ascontiguousarray(rows[self.of_token])


def all_classes(vocab: int) -> TokenClasses:
    """Every token its own class."""
    return TokenClasses(np.arange(vocab, dtype=np.int32), vocab, 0)


def common_classes(mass: NDArray[np.float64], keep: int) -> TokenClasses:
    """The ``keep`` tokens of greatest ``mass`` [vocab] get classes of their own, in order of
    id; equal mass is settled by the smaller id."""
    vocab = len(mass)
    if keep >= vocab - 1:
        return all_classes(vocab)
    common = np.sort(np.lexsort((np.arange(vocab), -mass))[:keep])
    of_token = np.full(vocab, keep, np.int32)
    of_token[common] = np.arange(keep, dtype=np.int32)
    return TokenClasses(of_token, keep + 1, vocab - keep)
