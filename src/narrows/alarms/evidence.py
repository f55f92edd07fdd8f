"""Evidence that grows while something is wrong and is forgotten while nothing is.

A *bet* turns each observation into a factor e >= 0 whose mean, given all before, is at most 1
under the null. For each subject (an API key, say) and bet

    R <- (R + 1) * e            R = 0 at first, and again behind an alarm

and an alarm is due where the mean of R over the bets reaches 1/alpha. Under the null R less the
number of observations is a supermartingale, and an alarm takes 1/alpha from it: so among n
observations of all subjects together at most n * alpha false alarms are expected, for ever,
however many subjects there are (Shiryaev-Roberts, with e-values). Honest years before a theft
weaken nothing: R never falls below what the last observation brings.

Bounded: of more than ``max_subjects`` the least suspicious are forgotten, which is what an
honest one looks like anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

MAX_SUBJECTS = 1 << 16
_HIGHEST = 1000.0  # log2; what is above stays an alarm


class Evidence:
    """``bets``: how many factors an observation has. ``alpha``: false alarms an observation."""

    def __init__(self, bets: int, alpha: float, max_subjects: int = MAX_SUBJECTS) -> None:
        if bets < 1 or not 0 < alpha < 1 or max_subjects < 1:
            raise ValueError(f"{bets} bets, alpha {alpha}, {max_subjects} subjects")
        self._bets = bets
        self._limit_bits = -math.log2(alpha)
        self._max_subjects = max_subjects
        self._logs: dict[int, tuple[float, ...]] = {}
        self._changed: set[int] = set()

    def observe(self, subject: int, factors_bits: Sequence[float]) -> bool:
        """log2 of each bet's factor. Whether an alarm is due; then the subject begins anew."""
        if len(factors_bits) != self._bets or any(math.isnan(one) for one in factors_bits):
            raise ValueError(f"{len(factors_bits)} factors for {self._bets} bets")
        before = self._logs.get(subject, (-_HIGHEST,) * self._bets)
        logs = tuple(
            min(max(_plus_one(log) + factor, -_HIGHEST), _HIGHEST)
            for log, factor in zip(before, factors_bits, strict=True)
        )
        self._logs[subject] = logs
        self._changed.add(subject)
        if mean_bits(logs) >= self._limit_bits:
            self.forget(subject)
            return True
        if len(self._logs) > self._max_subjects:
            self._shed()
        return False

    def bits(self, subject: int) -> float:
        """log2 of the mean of R; an alarm is due at -log2(alpha)."""
        logs = self._logs.get(subject)
        return mean_bits(logs) if logs else -_HIGHEST

    @property
    def limit_bits(self) -> float:
        return self._limit_bits

    def __len__(self) -> int:
        return len(self._logs)

    def forget(self, subject: int) -> None:
        """Begin anew: an alarm was raised, or acknowledged."""
        self._logs.pop(subject, None)
        self._changed.add(subject)

    def take_changed(self) -> Iterator[tuple[int, tuple[float, ...] | None]]:
        """What to write down since the last call; None: forgotten."""
        changed, self._changed = self._changed, set()
        return ((subject, self._logs.get(subject)) for subject in sorted(changed))

    def restore(self, subject: int, logs: Sequence[float]) -> None:
        """What was written down. What is no such thing is not taken."""
        fits = len(logs) == self._bets and all(
            isinstance(one, float) and abs(one) <= _HIGHEST for one in logs
        )
        if fits and len(self._logs) < self._max_subjects:
            self._logs[subject] = tuple(logs)

    def _shed(self) -> None:
        keep = sorted(self._logs, key=self.bits, reverse=True)[: 3 * self._max_subjects // 4 or 1]
        for subject in set(self._logs).difference(keep):
            del self._logs[subject]
            self._changed.add(subject)


class SummedTest:
    """A detector whose rows in the book are its evidence."""

    def __init__(self, sums: Evidence) -> None:
        self._sums = sums

    def forget(self, subject: int) -> None:
        """As of ``Detector``."""
        self._sums.forget(subject)

    def take_changed(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """As of ``Detector``."""
        return self._sums.take_changed()

    def restore(self, subject: int, values: Sequence[float]) -> None:
        """As of ``Detector``."""
        self._sums.restore(subject, values)


def mean_bits(logs: Sequence[float]) -> float:
    """log2 of the mean of 2**log."""
    best = max(logs)
    return best + math.log2(sum(2.0 ** max(log - best, -1000.0) for log in logs) / len(logs))


def _plus_one(log: float) -> float:
    """log2(2**log + 1)."""
    high = max(log, 0.0)
    return high + math.log2(2.0 ** (log - high) + 2.0**-high) if high < 900 else high
