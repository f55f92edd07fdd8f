"""Which coding an encoder gives its next answer: the one that measured cheaper.

For the encoder alone; what it chooses is signalled when the answer opens, so nothing here has
to agree with the other end. Costs per token are averaged by coding; every 32nd answer takes
the other one, so that a changed weak model is noticed.
"""

from __future__ import annotations

from narrows.coding.events import AnswerSpec, Coding

_TRY_EVERY = 32
_MEMORY_TOKENS = 4096.0


class CodingChoice:
    """Feed ``observe`` with finished answers, ask ``choose`` before the next one opens."""

    def __init__(self) -> None:
        # Coupled first: with a controlled sampler it nearly always wins.
        self._bits = {Coding.COUPLED: 1.0, Coding.PLAIN: 3.0}
        self._answers = 0

    def choose(self, spec: AnswerSpec, sampler_is_shared: bool) -> Coding:
        """PLAIN where the sampler did not use the noise, or at T = 0 (there is none)."""
        if not sampler_is_shared or spec.temperature == 0:
            return Coding.PLAIN
        self._answers += 1
        cheap = min(self._bits, key=lambda coding: self._bits[coding])
        if self._answers % _TRY_EVERY == 0:
            return Coding.PLAIN if cheap == Coding.COUPLED else Coding.COUPLED
        return cheap

    def observe(self, coding: Coding, bits: float, tokens: int) -> None:
        """An answer of ``tokens`` tokens cost ``bits`` under ``coding`` (COUPLED or PLAIN)."""
        if coding in self._bits and tokens > 0:
            share = tokens / (tokens + _MEMORY_TOKENS)
            self._bits[coding] += share * (bits / tokens - self._bits[coding])

    def bits_per_token(self, coding: Coding) -> float:
        return self._bits[coding]
