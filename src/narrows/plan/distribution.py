"""One input of a scenario: a value, or a distribution given by its 5th and 95th percentile.

Every distribution is a monotone function of one standard normal (or uniform) variate, so an
input can also be set to its own quantile, and two scenarios that share a seed share their luck:
what differs between them is then the difference, not the noise. Each input draws from its own
stream, keyed by seed and input name; adding an input leaves all others' draws as they were.
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Samples = NDArray[np.float64]
Number = float | Samples

KINDS = ("lognormal", "normal", "uniform", "loguniform")
Z95 = 1.6448536269514722  # standard normal quantile at 0.95


@dataclass(frozen=True, slots=True)
class Distribution:
    """``p5 <= p95`` in base units of the field; equal means a fixed value.

    ``lower``, ``upper``: draws beyond are set to the bound (a share never passes 100 %), so a
    distribution whose tail crosses a bound has a lump of probability there.
    """

    p5: float
    p95: float
    kind: str = "lognormal"
    lower: float = 0.0
    upper: float = math.inf

    @property
    def fixed(self) -> bool:
        return self.p5 == self.p95

    def quantile(self, share: float) -> float:
        """The value below which ``share`` (0..1, exclusive) of the draws lie, bounds applied."""
        if self.fixed:
            return self.p5
        if self.kind in ("lognormal", "normal"):
            return float(self._of_normal(np.float64(NormalDist().inv_cdf(share))))
        return float(self._of_uniform(np.float64(share)))

    @property
    def median(self) -> float:
        return self.quantile(0.5)

    def draw(self, name: str, seed: int, draws: int) -> Number:
        """float64 [draws], or the plain value where it is fixed. Same seed, same draws."""
        if self.fixed:
            return self.p5
        stream = np.random.default_rng([seed, zlib.crc32(name.encode())])
        if self.kind in ("lognormal", "normal"):
            return self._of_normal(stream.standard_normal(draws))
        return self._of_uniform(stream.random(draws))

    def _of_normal(self, z: Samples | np.float64) -> Samples:
        values: Samples | np.float64
        if self.kind == "normal":
            middle, spread = (self.p5 + self.p95) / 2, (self.p95 - self.p5) / (2 * Z95)
            values = middle + spread * z
        else:
            middle = (math.log(self.p5) + math.log(self.p95)) / 2
            spread = math.log(self.p95 / self.p5) / (2 * Z95)
            values = np.exp(middle + spread * z)
        return np.clip(values, self.lower, self.upper)

    def _of_uniform(self, u: Samples | np.float64) -> Samples:
        """The 5th and 95th percentile of a uniform lie 5 % of its width inside its ends."""
        position = (u - 0.05) / 0.9
        values: Samples | np.float64
        if self.kind == "loguniform":
            values = np.exp(math.log(self.p5) + math.log(self.p95 / self.p5) * position)
        else:
            values = self.p5 + (self.p95 - self.p5) * position
        return np.clip(values, self.lower, self.upper)


def fixed(value: float) -> Distribution:
    return Distribution(value, value, lower=-math.inf)
