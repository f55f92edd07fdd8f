"""The code of one answer's tokens at one end: intervals of 2**32 under the weak model.

Use, the same at both ends, for every token::

    code.prepare(logits)                      # what the weak model says after the history
    low, share = code.interval(token)         # encoder
    token, low, share = code.find(target)     # decoder: the share that holds the target
    code.update(token)                        # both, always, before the next prepare
    code.skip()                               # instead of the four, for a token coded apart
    ...
    code.close()                              # once, at the answer's end or cancellation

Layout of the range: the listed tokens' shares fill [0, A) in order of id, the others' shares
fill [A, 2**32) under the weak model (``models/distribution.py``, steps 6 and 7). Which tokens
are listed, and how their shares adapt to what this answer has brought so far, is in
``kernels.py``; coupled answers put the posterior of ``coupled.py`` in the weak
model's place, and all the rest is the same.

Invariants
- Shares are >= 1, disjoint, and fill [0, 2**32) exactly: any answer can be coded and any
  32-bit target decodes.
- Everything is a pure function of (spec, coding, calibration at opening, logits, tokens so
  far). ``calibration`` is read in the constructor and written in ``close`` only; the link
  calls both at points that the coded stream alone decides.
- Nothing learned from an answer's content leaves it: ``close`` gives scalars to the calibration.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens import calibrate, coupled, kernels, noise, sampler
from narrows.coding.tokens.calibrate import Calibration
from narrows.errors import LinkError
from narrows.models import distribution as dist

TOTAL_BITS = dist.TOTAL_BITS


class TokenCode:
    """``spec`` as both ends know it; ``coding`` PLAIN, TEXT (same as plain) or COUPLED (plain
    all the same where the temperature is 0). Raises LinkError for ids out of range in ``spec``.

    Not thread-safe. Holds 8 bytes per vocabulary entry (20 coupled) and 256 KiB until dropped.
    """

    def __init__(
        self, spec: AnswerSpec, coding: Coding, vocab_size: int, calibration: Calibration
    ) -> None:
        blocks = dist.block_count(vocab_size)
        self._vocab_size = vocab_size
        self._coupled = calibrate.is_coupled(spec, coding)
        self._key, self._noise = spec.noise_key, spec.noise
        self._position = len(spec.resume)
        self._calibration = calibration
        self._class = calibrate.answer_class(spec, self._coupled)
        self._scalars = calibration.copy(self._class)
        self._tokens = 0

        past = spec.prompt + spec.resume
        if past and not 0 <= min(past) <= max(past) < vocab_size:
            raise LinkError(f"a prompt with tokens outside the vocabulary of {vocab_size}")
        self._history = np.zeros(len(past) + 256, np.int32)
        self._history[: len(past)] = past
        self._length = len(past)
        self._table = np.zeros(1 << kernels.TABLE_BITS, np.int32)
        self._sums = np.zeros(1 << kernels.TABLE_BITS, np.uint32)
        self._marks = np.zeros(vocab_size, np.uint8)
        self._seen = np.zeros(kernels.WINDOW_TOKENS, np.int32)

        self._weights = np.zeros(vocab_size, np.uint32)
        self._blocks = np.zeros(blocks, np.uint64)
        self._listed = np.zeros(vocab_size + blocks, np.uint16)
        self._total = np.uint64(0)
        room = min(vocab_size, kernels.LIST_MAX)
        self._ids = np.zeros(room, np.int32)
        self._base = np.zeros(room, np.int64)
        self._lows = np.zeros(room + 1, np.uint64)
        self._chances = np.zeros(room + 1, np.int64)
        self._matched = np.zeros(room, np.int64)
        self._count = 0
        self._others = vocab_size
        if self._coupled:
            self._inverse_q16 = sampler.inverse_q16(spec.temperature)
            self._words = np.zeros(noise.padded(vocab_size), np.uint32)
            self._depths = np.zeros(vocab_size, np.int32)
            self._lucks = np.zeros(vocab_size, np.int32)
            self._means = np.zeros(2, np.int64)
            self._exponents = self._scalars[calibrate.EXPONENTS :]  # a view: learned with the rest

    def prepare(self, logits: NDArray[np.int32]) -> None:
        """Take the weak model's logits, int32 [vocab_size] in Q16 log2 units; not kept.

        Preparing again without ``update`` in between replaces the first one.
        """
        self._forget()
        total = self._weigh(logits)
        self._total = np.uint64(total)
        self._count, escape = kernels.list_likely(self._weights, self._total, self._ids, self._base)
        kernels.share(
            self._ids,
            self._base,
            self._count,
            escape,
            self._history,
            self._length,
            self._scalars,
            self._table,
            self._marks,
            self._seen,
            self._vocab_size,
            self._lows,
            self._chances,
            self._matched,
        )
        ids = self._ids[: self._count]
        self._total -= dist.enlist(ids, self._weights, self._blocks, self._listed)
        self._others = self._vocab_size - self._count

    def _weigh(self, logits: NDArray[np.int32]) -> int:
        if not self._coupled:
            return int(dist.weigh(logits, dist.ONE_Q12, self._weights, self._blocks))
        total = coupled.weigh(
            logits,
            self._inverse_q16,
            noise.row_of(self._noise, self._key, self._position),
            self._exponents,
            self._words,
            self._depths,
            self._lucks,
            self._weights,
            self._blocks,
            self._means,
        )
        return int(total)

    def _forget(self) -> None:
        dist.delist(self._ids[: self._count], self._listed, self._vocab_size)
        self._count = 0

    def interval(self, token: int) -> tuple[int, int]:
        """(low, share) of ``token`` in [0, 2**32). Raises LinkError for an id out of range."""
        if not 0 <= token < self._vocab_size:
            raise LinkError(f"token {token} is not in the vocabulary of {self._vocab_size}")
        at = kernels.locate(self._ids, self._count, token)
        if at >= 0:
            low = int(self._lows[at])
            return low, int(self._lows[at + 1]) - low
        low, share = dist.interval(token, *self._rest())
        return int(low), int(share)

    def find(self, target: int) -> tuple[int, int, int]:
        """(token, low, share) with low <= target < low + share; 0 <= target < 2**32."""
        if target < int(self._lows[self._count]):
            at = int(np.searchsorted(self._lows[: self._count + 1], np.uint64(target), "right")) - 1
            low = int(self._lows[at])
            return int(self._ids[at]), low, int(self._lows[at + 1]) - low
        token, low, share = dist.find(target, *self._rest())
        return int(token), int(low), int(share)

    def _rest(
        self,
    ) -> tuple[dist.Weights, dist.Blocks, NDArray[np.uint16], np.uint64, int, int]:
        base = int(self._lows[self._count])
        return self._weights, self._blocks, self._listed, self._total, self._others, base

    def update(self, token: int) -> None:
        """Learn from ``token``, which was just coded with the prepared distribution."""
        kernels.learn(
            token,
            self._ids,
            self._base,
            self._count,
            self._chances,
            int(self._history[self._length - 1]) if self._length else -2,
            self._scalars,
            self._table,
            self._sums,
            self._matched,
        )
        if self._coupled:
            coupled.learn(token, self._depths, self._lucks, self._means, self._exponents)
        if self._length == len(self._history):
            self._history = np.concatenate([self._history, np.zeros_like(self._history)])
        self._history[self._length] = token
        self._length += 1
        self._position += 1
        self._tokens += 1

    def skip(self) -> None:
        """A token of the answer was coded apart: nothing is learned from it, but the sampler has
        spent the noise of its position."""
        self._position += 1

    def cost_bits(self, token: int) -> float:
        """What ``token`` costs now, in bits. A float: for reports and choices of the encoder
        that it signals, never for anything coded."""
        return TOTAL_BITS - math.log2(self.interval(token)[1])

    def close(self) -> None:
        """The answer ended: give what was learned of the weak model to the calibration."""
        if self._tokens:
            self._calibration.absorb(self._class, self._scalars, self._tokens)
        self._tokens = 0
