"""A sequential test for charges that no honest engine has, with a stated rate of false alarms.

The null: whatever came before, a segment of n tokens of an honest engine is charged C bits with

    E[2^(t C)] <= 2^(slack(t) n)        for each t of ``Null.slacks``

Then the mean over t of the product of 2^(t C - slack n) is a non-negative supermartingale that
begins at 1, so it ever reaches 1/alpha with probability at most alpha (Ville): looked at after
every segment, for the test's whole life. ``calibrate`` finds the slacks on held-out honest
segments; the null then holds where served segments are like those.

Whoever runs n tests side by side (a key, an hour each) gives each alpha / n.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from narrows.alarms.evidence import mean_bits

RATES = (1 / 64, 1 / 16, 1 / 4)
DEFAULT_ALPHA = 1e-6
"""Over a test's whole life, so less than that a day where it lives for a day or longer."""
COST_CAP_BITS = 32.0
"""No token is charged more: the code's floor is 2**-13 of a vocabulary of at most 2**18."""

_FITS_BELOW = 500.0
"""A mean with 2 to more than that in it is above 1; its square would leave the floats."""


@dataclass(frozen=True, slots=True)
class Null:
    """``slacks``: for each of ``rates``, bits a token that honest charges are allowed."""

    rates: tuple[float, ...] = RATES
    slacks: tuple[float, ...] = tuple(0.12 * rate * (1 + 4 * rate) for rate in RATES)


def calibrate(
    segments: Iterable[tuple[float, int]], margin: float = 1.25, confidence: float = 1e-6
) -> Null:
    """The null of held-out honest (bits, tokens) segments. For each rate t the least slack at
    which the mean of 2^(t C - slack n) is at most 1 with ``confidence`` to spare, by the
    empirical Bernstein bound (Maurer and Pontil 2009) with twice the highest value seen as the
    range; then times ``margin``, for engines that are a little worse than on that day.
    Too few segments make a slack that allows everything. ValueError: fewer than two."""
    rows = [(bits, tokens) for bits, tokens in segments if tokens > 0]
    if len(rows) < 2:
        raise ValueError(f"{len(rows)} segments say nothing about a rate")
    slacks = []
    for rate in RATES:
        low, high = 0.0, rate * COST_CAP_BITS
        for _ in range(40):
            middle = (low + high) / 2
            powers = [rate * c - middle * n for c, n in rows]
            fits = max(powers) <= _FITS_BELOW
            fits = fits and upper([2.0**power for power in powers], confidence / len(RATES)) <= 1
            low, high = (low, middle) if fits else (middle, high)
        slacks.append(min(margin * high, rate * COST_CAP_BITS))  # which nothing exceeds
    return Null(RATES, tuple(slacks))


def upper(values: Sequence[float], confidence: float) -> float:
    """No less than the mean that ``values`` (two or more, none negative) came from, but with a
    chance of ``confidence``: the empirical Bernstein bound, with twice the highest as the range."""
    count = len(values)
    mean = sum(values) / count
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    log_term = math.log(2 / confidence)
    tail = 7 * 2 * max(values) * log_term / (3 * (count - 1))
    return mean + math.sqrt(2 * variance * log_term / count) + tail


@dataclass(slots=True)
class Alarm:
    """``alpha``: the chance of a false alarm over this test's whole life, under the null."""

    null: Null = field(default_factory=Null)
    alpha: float = DEFAULT_ALPHA
    raised: bool = False
    logs: list[float] = field(default_factory=list)
    """Of the supermartingale's terms: with ``raised`` all that the test remembers."""

    def observe(self, bits: float, tokens: int) -> bool:
        """A segment's charge. True from the segment on at which the alarm is raised."""
        if bits < 0 or tokens < 0:
            raise ValueError(f"a charge of {bits} bits for {tokens} tokens")
        if not self.logs:
            self.logs = [0.0] * len(self.null.rates)
        terms = zip(self.logs, self.null.rates, self.null.slacks, strict=True)
        self.logs = [log + rate * bits - slack * tokens for log, rate, slack in terms]
        self.raised = self.raised or self.evidence_bits() >= -math.log2(self.alpha)
        return self.raised

    def evidence_bits(self) -> float:
        """log2 of the supermartingale; an alarm at log2(1 / alpha)."""
        return mean_bits(self.logs) if self.logs else 0.0
