"""What a tick costs: the code length of what an observer at the edge sees in it.

The model is fixed, published (docs/timing.md) and adaptive: every probability is a function
of what was already seen. A tick is described by binary decisions only:

    tick    empty?                                    context: the last three ticks
    if not, for every live link in the order of their opening
      link  silent?                                   context: its last two such ticks
            (not asked of an only link; learned once a tick, not link by link)
      if not
            closes?
            if not: bit length of the count (5-bit tree), its next 3 bits adaptive by
                      length, all lower bits 1 bit each

Invariants
1. A decision with P(1) = p / 2^16 charges ceil(-log2 P) in units of 2^-24 bit, rounded *up*
   by integer arithmetic, so 2^-cost(0) + 2^-cost(1) <= 1.
2. Each tick is one path through a tree of such decisions, hence for every past
   sum over all ticks of 2^-cost <= 1 (Kraft), and for runs of ticks by induction.
3. P(1) is kept within 2^-10 .. 1 - 2^-10: an idle link's empty tick costs -log2(1 - 2^-10).
4. State is a few hundred integers whatever the enclave does.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

FRACTION_BITS = 24
UNITS_PER_BIT = 1 << FRACTION_BITS
UNITS_PER_BYTE = 8 * UNITS_PER_BIT
MAX_COUNT = (1 << 24) - 1

_ONE = 1 << 16
_FLOOR = _ONE >> 10
_SHIFT = 5
_HALF = _ONE // 2

# layout of the table of probabilities
_EMPTY = 0  # 8 contexts, P(tick is not empty)
_ACTIVE = 8  # 4 contexts, P(link is not silent)
_CLOSES = 12
_LENGTH = 13  # 5-bit tree: 32 nodes
_TOP = 45  # 25 lengths x 8 nodes
_SIZE = _TOP + 25 * 8


@cache  # at most 2^16 entries
def cost_units(p: int) -> int:
    """ceil(-log2(p / 2^16)) in units of 2^-24 bit, for 1 <= p <= 2^16, never too small.

    log2 of the mantissa by repeated squaring; each square is truncated, so the logarithm
    comes out too small and the cost too large, by less than two units.
    """
    exponent = p.bit_length() - 1
    if p == 1 << exponent:
        return (16 - exponent) << FRACTION_BITS
    mantissa = p << (62 - exponent)
    log2 = exponent
    for _ in range(FRACTION_BITS):
        mantissa = (mantissa * mantissa) >> 62
        log2 <<= 1
        if mantissa >> 63:
            log2 |= 1
            mantissa >>= 1
    return (16 << FRACTION_BITS) - log2


class LinkHistory:
    """What the model remembers of one link: whether its last two ticks were silent."""

    __slots__ = ("bits",)

    def __init__(self) -> None:
        self.bits = 0


Seen = tuple[LinkHistory, int, bool]  # a live link, bytes sent on it in the tick, closes


class TickModel:
    """The adaptive model of one port. Costs are in units of 2^-24 bit."""

    def __init__(self) -> None:
        self._p = [_HALF] * _SIZE
        self._p[_EMPTY] = _FLOOR
        self._p[_CLOSES] = _FLOOR
        self._recent = 0

    def empty(self, ticks: int = 1) -> int:
        """Cost of that many ticks in which nothing was seen."""
        units = 0
        while ticks > 0:
            context = _EMPTY + self._recent
            before = self._p[context]
            cost = self._decide(context, 0)
            self._recent = (self._recent << 1) & 7
            if self._recent == 0 and self._p[_EMPTY] == before and context == _EMPTY:
                return units + cost * ticks  # settled: every further one costs the same
            units += cost
            ticks -= 1
        return units

    def tick(self, seen: list[Seen]) -> int:
        """Cost of a tick. ``seen``: every live link in the order of opening, counts
        0..MAX_COUNT, and 0 where it closes: a link ends in a tick of its own. A tick in
        which nothing was seen costs what ``empty`` does."""
        if not any(count or closes for _, count, closes in seen):
            return self.empty()
        units = self._decide(_EMPTY + self._recent, 1)
        self._recent = (self._recent << 1 | 1) & 7
        silent, active = [0] * 4, [0] * 4
        for history, count, closes in seen:
            bits = history.bits
            if count or closes:
                active[bits] += 1
                history.bits = (bits << 1 | 1) & 3
                units += self._link(count, closes)
            else:
                silent[bits] += 1
                if bits:
                    history.bits = (bits << 1) & 3
        if len(seen) > 1:
            units += self._activity(silent, active)
        return units

    def preview(self, seen: list[Seen]) -> int:
        """What ``tick`` would cost, without having seen it."""
        kept, recent = self._p.copy(), self._recent
        bits = [history.bits for history, _, _ in seen]
        units = self.tick(seen)
        self._p, self._recent = kept, recent
        for (history, _, _), old in zip(seen, bits, strict=True):
            history.bits = old
        return units

    def _activity(self, silent: list[int], active: list[int]) -> int:
        units = 0
        for context in range(4):
            links = silent[context] + active[context]
            if links:
                p = self._p[_ACTIVE + context]
                units += active[context] * cost_units(p) + silent[context] * cost_units(_ONE - p)
                moved = p + ((active[context] * _ONE // links - p) >> _SHIFT)
                self._p[_ACTIVE + context] = min(_ONE - _FLOOR, max(_FLOOR, moved))
        return units

    def _link(self, count: int, closes: bool) -> int:
        units = self._decide(_CLOSES, int(closes))
        if closes and not count:
            return units
        if closes or not 1 <= count <= MAX_COUNT:
            raise ValueError(f"{count} bytes in one tick, closes: {closes}")
        return units + self._count(count)

    def _count(self, count: int) -> int:
        length = count.bit_length()
        units = self._tree(_LENGTH, _digits(length, 5))
        below = length - 1  # bits under the leading one
        modelled = min(3, below)
        top = (count >> (below - modelled)) & ((1 << modelled) - 1)
        units += self._tree(_TOP + length * 8, _digits(top, modelled))
        return units + (below - modelled) * UNITS_PER_BIT

    def _tree(self, base: int, digits: Iterable[int]) -> int:
        node, units = 1, 0
        for digit in digits:
            units += self._decide(base + node, digit)
            node = node << 1 | digit
        return units

    def _decide(self, index: int, bit: int) -> int:
        p = self._p[index]
        if bit:
            more = p + ((_ONE - p) >> _SHIFT)
            self._p[index] = more if more < _ONE - _FLOOR else _ONE - _FLOOR
            return cost_units(p)
        less = p - (p >> _SHIFT)
        self._p[index] = less if less > _FLOOR else _FLOOR
        return cost_units(_ONE - p)


def _digits(value: int, width: int) -> list[int]:
    return [value >> place & 1 for place in range(width - 1, -1, -1)]


# Constant pacing: one decision per link and tick. "As every tick" is 1 bit, the two
# exceptions 2 bits each: 1/2 + 1/4 + 1/4 = 1.
CONSTANT_NORMAL_UNITS = UNITS_PER_BIT
CONSTANT_EXCEPTION_UNITS = 2 * UNITS_PER_BIT  # this link closes, or its tick was missed


def idle_bytes_per_day(tick_ms: int) -> int:
    """Timing bytes that a port with an idle link is charged in a day, from a fresh start."""
    units = TickModel().empty(86_400_000 // tick_ms)
    return -(-units // UNITS_PER_BYTE)


def cost_bound(links: int, active: int, closes: int = 0) -> int:
    """Bytes that no tick's timing exceeds: 10 bits a decision at most."""
    return 2 + (links * 10 + active * 134 + closes * 20) // 8
