"""What a thief wanted out, and what of it arrived: bits, and how sure that number is."""

from __future__ import annotations

import bisect
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt

SLACK_BITS = 20.0
"""A charge is a code length. A payload that is longer by k bits has a chance of 2**-k at most,
so one within 20 bits of its charge proves nothing."""
SURE_BITS = 8.0
"""More than this is no chance in a channel that is said to carry nothing, its error taken off."""
_Z95 = 1.96


class Secret:
    """Random bits, known inside alone. Taken from the front; ``taken`` is what left."""

    def __init__(self, seed: int | str) -> None:
        self._rng = random.Random(seed)
        self.taken: list[int] = []

    def take(self, bits: int) -> int:
        """The next ``bits`` of them, as a number."""
        value = self._rng.getrandbits(bits) if bits else 0
        self.taken += to_bits(value, bits)
        return value


@dataclass
class Decoded:
    """``sent``: the secret's bits. ``got``: what the receiver decoded, in the same order, None
    where it decoded nothing, which it knows. ``widths``: the parts of a symbol, in bits, where
    they come by channels of their own. ``broken``: a law other than the charge that was seen
    broken. ``note``: one line for the report. ``charged_bits``: where the attack itself keeps that
    book, since it puts the ledger back."""

    sent: Sequence[int]
    got: Sequence[int | None]
    broken: str = ""
    note: str = ""
    charged_bits: int | None = None
    widths: tuple[int, ...] = (1,)

    @property
    def bits(self) -> float:
        """Received without error: what a perfect code over these channels would bring, binary
        symmetric ones in which some bits are erased."""
        return sum(known * _capacity(wrong / known) for wrong, known in self._parts() if known)

    @property
    def error_bits(self) -> float:
        """By how much ``bits`` may be too high: the lower end of each error rate's 95 % interval,
        and for a channel of noise what chance alone shows."""
        return sum(
            known * (_capacity(wrong / known) - _capacity(min(0.5, _wilson_high(wrong, known))))
            for wrong, known in self._parts()
            if wrong
        )

    def silent(self, what: str) -> Decoded:
        """Of a channel that is said to carry nothing: broken where it surely carries something."""
        sure = self.bits - self.error_bits
        if sure > SURE_BITS:
            self.broken = f"{what} carried {sure:.0f} bits at least"
        return self

    def _parts(self) -> list[tuple[int, int]]:
        """Of each part of all symbols: bits that are wrong, of those that came."""
        ends = list(itertools.accumulate(self.widths))
        counts = [[0, 0] for _ in ends]
        for place, (true, bit) in enumerate(zip(self.sent, self.got, strict=False)):
            if bit is not None:
                part = bisect.bisect_right(ends, place % ends[-1])
                counts[part][0] += bit != true
                counts[part][1] += 1
        return [(wrong, known) for wrong, known in counts]


def to_bits(value: int, bits: int) -> list[int]:
    """Highest first."""
    return [value >> shift & 1 for shift in reversed(range(bits))]


def symbols(values: Sequence[int | None], bits: int) -> list[int | None]:
    """Decoded numbers as bits; None stands for as many that were not decoded."""
    found: list[int | None] = []
    for value in values:
        found += [None] * bits if value is None else to_bits(value, bits)
    return found


def threshold(pilot: Sequence[tuple[int, float]], measured: Sequence[float]) -> list[int]:
    """Maximum likelihood for two levels of one measure: the cut, and its direction, that is wrong
    least often on ``pilot`` (known bit, measure), applied to ``measured``."""
    levels = sorted(value for _, value in pilot)
    cuts = [(a + b) / 2 for a, b in itertools.pairwise(levels)] or [0.0]

    def wrong(rule: tuple[float, bool]) -> int:
        cut, up = rule
        return sum(((value > cut) == up) != bool(bit) for bit, value in pilot)

    best = min(((cut, up) for cut in cuts for up in (True, False)), key=wrong)
    return [int((value > best[0]) == best[1]) for value in measured]


def _capacity(error: float) -> float:
    """1 - H2(error) bits of a binary symmetric channel; a receiver that is mostly wrong has not
    understood anything."""
    if error >= 0.5:
        return 0.0
    if error <= 0:
        return 1.0
    return 1 + error * log2(error) + (1 - error) * log2(1 - error)


def _wilson_high(wrong: int, count: int) -> float:
    share = wrong / count
    square = _Z95 * _Z95
    middle = share + square / (2 * count)
    spread = _Z95 * sqrt(share * (1 - share) / count + square / (4 * count * count))
    return (middle + spread) / (1 + square / count)
