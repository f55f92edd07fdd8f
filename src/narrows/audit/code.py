"""The audit's token code: how many bits a token costs whoever can recompute the strong model.

Per token, a mixture of four, in shares of 2**48 (docs/audit.md):

    point      everything on the winner of the sampler's race
    posterior  2**(a * (log2 p / T + g)) over the tokens near the winner (``kernels.py``)
    plain      the model's own distribution at T, top_p applied: what other noise would draw
    floor      2**-13 in all, the same for each token: nothing is impossible

The weights of the first three are Bayes' with fixed share, the exponent a takes a gradient step on
the code length: from the tokens before alone. So the shares of all tokens sum to at most 2**48
at every step, which is Kraft's inequality; the tests sum them.

Costs are in Q16 bits and always rounded up. The learned state is carried from segment to segment
by ``Experience``: one that begins reads it, one that is complete changes it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from narrows.audit import kernels
from narrows.coding.events import OWN_NOISE, Noise
from narrows.coding.tokens import noise, sampler
from narrows.models import distribution as dist
from narrows.models.api import Logits

TOTAL = 1 << 48
ONE_BIT = 1 << 16  # Q16
_FLOOR_SHIFT = 13
_ALPHA = 2.0**-10
_PRIOR = (0.495, 0.495, 0.01)
_START = math.log(20.0)
_RATE = 1 / 32
_STEP_MAX = 4.0
_LOWEST, _HIGHEST = 0.0, math.log(4096.0)
_MEMORY_TOKENS = 32


@dataclass(slots=True)
class Learned:
    """``log_exponent``: its natural logarithm. ``weights``: of point, posterior and plain;
    they sum to 1."""

    log_exponent: float = _START
    weights: tuple[float, float, float] = _PRIOR

    def copy(self) -> Learned:
        return Learned(self.log_exponent, self.weights)


@dataclass(slots=True)
class Experience:
    """What complete segments have taught, by class: with noise, and greedy."""

    noisy: Learned = field(default_factory=Learned)
    greedy: Learned = field(default_factory=Learned)

    def copy(self) -> Experience:
        return Experience(self.noisy.copy(), self.greedy.copy())

    def start(self, greedy: bool) -> Learned:
        return (self.greedy if greedy else self.noisy).copy()

    def absorb(self, greedy: bool, learned: Learned, tokens: int) -> None:
        """A segment of ``tokens`` tokens is complete."""
        mine = self.greedy if greedy else self.noisy
        part = tokens / (tokens + _MEMORY_TOKENS)
        mine.log_exponent += part * (learned.log_exponent - mine.log_exponent)
        pairs = zip(mine.weights, learned.weights, strict=True)
        point, posterior, plain = (old + part * (new - old) for old, new in pairs)
        mine.weights = (point, posterior, plain)


def bits_q16(share: int, total_bits: int) -> int:
    """-log2(share / 2**total_bits) in Q16 bits, rounded up beyond the logarithm's own error."""
    return math.floor((total_bits - math.log2(share)) * ONE_BIT) + 1


class AuditCode:
    """One segment's code. Not thread-safe; holds 50 bytes per vocabulary entry.

    ``temperature``, ``top_p``: Q16, as the sampler takes them; ``drawn``: another noise than
    narrows' own."""

    def __init__(
        self,
        vocab_size: int,
        temperature: int,
        top_p: int,
        noise_key: bytes,
        learned: Learned,
        drawn: Noise = OWN_NOISE,
    ) -> None:
        self.learned = learned
        self.winner = -1
        self._noisy = temperature > 0
        self._key, self._drawn = noise_key, drawn
        self._top_p = top_p if temperature else sampler.ONE_Q16
        self._inverse = sampler.inverse_q16(temperature) if temperature else sampler.ONE_Q16
        self._plain_inverse = dist.inverse_q12(temperature) if temperature else dist.ONE_Q12
        self._floor = max(1, (TOTAL >> _FLOOR_SHIFT) // vocab_size)
        self._pool = TOTAL - vocab_size * self._floor
        self._row = np.zeros(5, np.uint32)
        self._words = np.zeros(noise.padded(vocab_size), np.uint32)
        self._plain = np.zeros(vocab_size, np.uint32)
        self._blocks = np.zeros(dist.block_count(vocab_size), np.uint64)
        self._ids = np.zeros(vocab_size, np.int32)
        self._scores = np.zeros(vocab_size, np.int64)
        self._weights = np.zeros(vocab_size, np.uint64)
        self._count = 0
        self._exponent = 0
        self._total = self._plain_total = 1
        self._top = np.int64(0)
        self._logits: Logits = np.zeros(0, np.int32)

    def prepare(self, logits: Logits, position: int) -> None:
        """What the strong model says before the answer's token ``position``; kept until
        ``update``."""
        self._logits = logits
        total = dist.weigh(logits, self._plain_inverse, self._plain, self._blocks)
        last_logit, last_id = -(2**31), len(logits)
        if self._top_p < sampler.ONE_Q16:
            kept = dist.nucleus(logits, self._plain, total, self._top_p)
            last_logit, last_id = int(kept[0]), int(kept[1])
            total = kernels.kept_mass(logits, self._plain, last_logit, last_id)
        self._plain_total = int(total)
        if self._noisy:
            self._row = noise.row_of(self._drawn, self._key, position)
        self._exponent = round(math.exp(self.learned.log_exponent) * 256)
        count, winner, top = kernels.race(
            logits, self._inverse, last_logit, last_id, self._noisy, self._row, self._exponent,
            self._words, self._ids, self._scores,
        )  # fmt: skip
        self._count, self.winner, self._top = int(count), int(winner), np.int64(top)
        self._total = int(kernels.weigh(self._scores, self._count, self._weights))

    def share(self, token: int) -> int:
        """Of 2**48, at least 1; over all tokens at most 2**48."""
        point, posterior, plain = self._masses()
        mine = self._floor + (point if token == self.winner else 0)
        mine += posterior * self._listed(token) // self._total
        return mine + plain * int(self._plain[token]) // self._plain_total

    def cost_q16(self, token: int) -> int:
        return bits_q16(self.share(token), 48)

    def update(self, token: int) -> None:
        """Learn from the token that the prepared distribution has just charged."""
        near, plain = self._listed(token) / self._total, int(self._plain[token])
        chances = (float(token == self.winner), near, plain / self._plain_total)
        parts = [w * p for w, p in zip(self.learned.weights, chances, strict=True)]
        whole = sum(parts)
        if whole > 0:
            point, posterior, rest = (
                (1 - _ALPHA) * part / whole + _ALPHA * prior
                for part, prior in zip(parts, _PRIOR, strict=True)
            )
            self.learned.weights = (point, posterior, rest)
        else:
            self.learned.weights = _PRIOR
        self._descend(token)

    def _masses(self) -> tuple[int, int, int]:
        """The integer shares of the three; together at most the pool, whatever rounds."""
        weights = self.learned.weights
        point = min(self._pool, int(self._pool * weights[0]))
        posterior = min(self._pool - point, int(self._pool * weights[1]))
        return point, posterior, self._pool - point - posterior

    def _listed(self, token: int) -> int:
        at = int(np.searchsorted(self._ids[: self._count], token))
        if at < self._count and self._ids[at] == token:
            return int(self._weights[at])
        return 0

    def _descend(self, token: int) -> None:
        """A step of the exponent's logarithm along f(token) - E[f], in bits."""
        weights = self._weights[: self._count].astype(np.float64)
        mean = float(weights @ self._scores[: self._count]) / float(weights.sum())
        luck = noise.token_noise(self._row, token, self._words[token]) if self._noisy else 0
        f = kernels.nearness(
            luck, self._top, np.int64(self._logits[token]), self._inverse, self._exponent
        )
        gradient = (int(f) - mean) / ONE_BIT
        step = _RATE * max(-_STEP_MAX, min(_STEP_MAX, gradient))
        moved = self.learned.log_exponent + step
        self.learned.log_exponent = max(_LOWEST, min(_HIGHEST, moved))
