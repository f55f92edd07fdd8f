"""How much all segments can have cost, when a share of them was audited.

Let W in [0, 1] be a segment's cost in units of B, X whether its coin (probability f) drew it.
For 0 < L < -ln(1 - f), whatever strategy chooses the next W from all coins before,

    M = product of (1 - X (1 - e^(-L W)) / f) e^(L W)

is a non-negative martingale that begins at 1, and so is the mean of such over a grid of L. By
Ville's inequality it ever reaches 1/delta with probability at most delta. So at every moment the
sum of all W, seen and unseen, is below the T at which the mean of e^(L T + S) reaches 1/delta,
S = sum over audited of ln(1 - (1 - e^(-L W)) / f). The highest L of the grid stays below the
limit, where one audited W = 1 would make the bound infinite for ever.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

GRID_STEPS = 16
_GRID_RATIO = 2.0**-0.75
_GRID_TOP = 0.8


def grid(share: float) -> NDArray[np.float64]:
    """The values of L for a share f, 0 < f < 1, highest first."""
    return np.asarray(-math.log1p(-share) * _GRID_TOP * _GRID_RATIO ** np.arange(GRID_STEPS))


def log_factor(
    w: NDArray[np.float64], share: float, rates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """S of audited segments: [..., len(rates)] for ``w`` [...], each in [0, 1]."""
    return np.asarray(np.log1p(np.expm1(-np.multiply.outer(w, rates)) / share))


class Bound:
    """``share`` f in (0, 1], ``delta`` in (0, 1): the bound fails at some time with probability
    at most ``delta``. With f = 1 it is the sum itself."""

    def __init__(self, share: float, delta: float) -> None:
        if not 0 < share <= 1 or not 0 < delta < 1:
            raise ValueError(f"share {share} and delta {delta} are to lie between 0 and 1")
        self.share = share
        self.delta = delta
        self._whole = 0.0
        self._rates = grid(share) if share < 1 else np.zeros(0)
        self._sums = np.zeros_like(self._rates)

    def audited(self, w: float) -> None:
        """A drawn segment of cost ``w`` in [0, 1], in units of B."""
        if not 0 <= w <= 1:
            raise ValueError(f"a segment's cost of {w} is outside 0..1")
        self.add(np.zeros(0) if self.share == 1 else self._factor(w), w)

    def add(self, logs: NDArray[np.float64], whole: float) -> None:
        """Several at once: the sum of their ``log_factor``, and of their costs."""
        self._whole += whole
        self._sums += logs

    def state(self) -> tuple[list[float], float]:
        """What ``add`` brings to a fresh one, to go on."""
        return [float(log) for log in self._sums], self._whole

    def _factor(self, w: float) -> NDArray[np.float64]:
        return log_factor(np.asarray(w), self.share, self._rates)

    def total(self) -> float:
        """What all segments so far can have cost together, in units of B."""
        if not len(self._rates):
            return self._whole
        wanted = -math.log(self.delta)
        low, high = 0.0, 1.0
        while self._log_mean(high) < wanted:
            low, high = high, 2 * high
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._log_mean(middle) < wanted else (low, middle)
        return high * (1 + 1e-12)

    def _log_mean(self, total: float) -> float:
        logs = self._rates * total + self._sums
        best = float(logs.max())
        return best + math.log(float(np.exp(logs - best).mean()))
