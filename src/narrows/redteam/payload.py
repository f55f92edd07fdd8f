"""What a thief wanted out, and what of it arrived: bits, and how sure that number is."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt

SLACK_BITS = 20.0
"""A charge is a code length. A payload that is longer by k bits has a chance of 2**-k at most,
so one within 20 bits of its charge proves nothing."""
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
    where it decoded nothing. ``broken``: a law other than the charge that was seen broken.
    ``note``: one line for the report. ``charged_bits``: where the attack itself keeps that book,
    since it puts the ledger back."""

    sent: Sequence[int]
    got: Sequence[int | None]
    broken: str = ""
    note: str = ""
    charged_bits: int | None = None

    @property
    def bits(self) -> float:
        """Received without error: what a perfect code over this channel would bring."""
        wrong, total = self._wrong()
        return total * _capacity(wrong / total) if total else 0.0

    @property
    def error_bits(self) -> float:
        """By how much ``bits`` may be too high: the lower end of the error rate's 95 % interval,
        and for a channel of noise what chance alone shows."""
        wrong, total = self._wrong()
        if not total or not wrong:
            return 0.0
        share = wrong / total
        high = min(0.5, _wilson_high(share, total))
        return self.bits - total * _capacity(high)

    def _wrong(self) -> tuple[float, int]:
        """Bits that are missing count as guessed: half wrong."""
        got = list(self.got[: len(self.sent)])
        missing = len(self.sent) - len(got) + sum(bit is None for bit in got)
        wrong = sum(
            bit is not None and bit != true for bit, true in zip(got, self.sent, strict=False)
        )
        return wrong + missing / 2, len(self.sent)


def to_bits(value: int, bits: int) -> list[int]:
    """Highest first."""
    return [value >> shift & 1 for shift in reversed(range(bits))]


def from_bits(bits: Sequence[int]) -> int:
    value = 0
    for bit in bits:
        value = value << 1 | bit
    return value


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


def _wilson_high(share: float, count: int) -> float:
    square = _Z95 * _Z95
    middle = share + square / (2 * count)
    spread = _Z95 * sqrt(share * (1 - share) / count + square / (4 * count * count))
    return (middle + spread) / (1 + square / count)
