"""The code of one answer's tokens at one end: intervals of 2**32 under the weak model.

Use, the same at both ends, for every token::

    code.prepare(logits)                      # what the weak model says after the history
    low, share = code.interval(token)         # encoder
    token, low, share = code.find(target)     # decoder: the share that holds the target
    code.update(token)                        # both, always, before the next prepare
    ...
    code.close()                              # once, at the answer's end or cancellation

Invariants
- Shares are >= 1, disjoint, and fill [0, 2**32) exactly: any answer can be coded and any
  32-bit target decodes.
- Everything is a pure function of (spec, coding, calibration at opening, logits, tokens so
  far). ``calibration`` is read in the constructor and written in ``close`` only; the link
  calls both at points that the coded stream alone decides.
- Nothing learned from an answer's content leaves it: ``close`` adds scalars to the calibration.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from narrows.coding.calibrate import Calibration
from narrows.coding.events import AnswerSpec, Coding
from narrows.errors import LinkError
from narrows.weak import distribution as dist

TOTAL_BITS = dist.TOTAL_BITS


class TokenCode:
    """``spec`` as both ends know it; ``coding`` PLAIN, TEXT (same as plain) or COUPLED.

    Not thread-safe. Holds 6 to 7 bytes per vocabulary entry until ``close``.
    """

    def __init__(
        self, spec: AnswerSpec, coding: Coding, vocab_size: int, calibration: Calibration
    ) -> None:
        self._vocab_size = vocab_size
        self._calibration = calibration
        self._weights = np.empty(vocab_size, np.uint32)
        self._blocks = np.empty(dist.block_count(vocab_size), np.uint64)
        self._listed = np.zeros(vocab_size + len(self._blocks), np.uint16)
        self._total = np.uint64(0)

    def prepare(self, logits: NDArray[np.int32]) -> None:
        """Take the weak model's logits, int32 [vocab_size] in Q16 log2 units; not kept."""
        self._total = dist.weigh(logits, dist.ONE_Q12, self._weights, self._blocks)

    def interval(self, token: int) -> tuple[int, int]:
        """(low, share) of ``token`` in [0, 2**32). Raises LinkError for an id out of range."""
        if not 0 <= token < self._vocab_size:
            raise LinkError(f"token {token} is not in the vocabulary of {self._vocab_size}")
        low, share = dist.interval(
            token, self._weights, self._blocks, self._listed, self._total, self._vocab_size, 0
        )
        return int(low), int(share)

    def find(self, target: int) -> tuple[int, int, int]:
        """(token, low, share) with low <= target < low + share; 0 <= target < 2**32."""
        token, low, share = dist.find(
            target, self._weights, self._blocks, self._listed, self._total, self._vocab_size, 0
        )
        return int(token), int(low), int(share)

    def update(self, token: int) -> None:
        """Learn from ``token``, which was just coded with the prepared distribution."""

    def cost_bits(self, token: int) -> float:
        """What ``token`` costs now, in bits. A float: for reports and choices of the encoder
        that it signals, never for anything coded."""
        return TOTAL_BITS - math.log2(self.interval(token)[1])

    def close(self) -> None:
        """The answer ended: give what was learned of the weak model to the calibration."""
