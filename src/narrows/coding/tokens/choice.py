"""Which coding an encoder gives its next answer: the one that measured cheaper.

For the encoder alone; what it chooses is signalled when the answer opens, so nothing here has
to agree with the other end. Costs per token are averaged by coding; every 32nd answer or so takes
the other one, so that a changed weak model is noticed: none within 16 of the last such one, then
each with a chance of 1 in 16. So whatever came before, and whoever asks in which rhythm, an
answer is tried so with a chance of at most 1 in 16: that is what ``narrows.alarms.uncoupled``
takes for honest.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from narrows.coding.events import AnswerSpec, Coding

_REST_ANSWERS = 16
_TRY_CHANCE = 1 / 16
_MEMORY_TOKENS = 4096.0


class CodingChoice:
    """Feed ``observe`` with finished answers, ask ``choose`` before the next one opens.
    ``chance``: uniform in [0, 1)."""

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        # Coupled first: with a controlled sampler it nearly always wins.
        self._bits = {Coding.COUPLED: 1.0, Coding.PLAIN: 3.0}
        self._rested = 0  # answers since the last one that was tried

    def choose(self, spec: AnswerSpec, sampler_is_shared: bool) -> Coding:
        """PLAIN where the sampler did not use the noise, or at T = 0 (there is none)."""
        if not sampler_is_shared or spec.temperature == 0:
            return Coding.PLAIN
        cheap = min(self._bits, key=lambda coding: self._bits[coding])
        self._rested += 1
        if self._rested > _REST_ANSWERS and self._chance() < _TRY_CHANCE:
            self._rested = 0
            return Coding.PLAIN if cheap == Coding.COUPLED else Coding.COUPLED
        return cheap

    def observe(self, coding: Coding, bits: float, tokens: int) -> None:
        """An answer of ``tokens`` tokens cost ``bits`` under ``coding`` (COUPLED or PLAIN)."""
        if coding in self._bits and tokens > 0:
            share = tokens / (tokens + _MEMORY_TOKENS)
            self._bits[coding] += share * (bits / tokens - self._bits[coding])

    def bits_per_token(self, coding: Coding) -> float:
        return self._bits[coding]
