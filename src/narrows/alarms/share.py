"""The share test: whose answers take what share of the outflow, hour by hour.

The null: whatever came before, a key's share of an hour's code length is in the mean at most
twice its share so far and 5 % more (``allowed``). The bets are 1 + b (share / allowed - 1) of
``Evidence``, of each key, with alpha an hour and key. A key that takes all of the outflow where
it took nothing is an alarm after seven hours; a new customer who does is one too, and is
acknowledged.

Not seen: a thief who takes part in what a key asks anyway, or grows by less than twofold, and
everything where there is one key alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from narrows.alarms.detector import Firing
from narrows.alarms.evidence import Evidence, SummedTest

DEFAULT_ALPHA = 1e-6
HOUR_S = 3600
LEAST_BITS = 8 * 4096
"""An hour with less outflow says nothing about shares."""
MAX_KEYS = 4096
_GROWTH, _FREE = 2.0, 0.05
_BETS = (0.1, 0.5)
_MEMORY_HOURS = 168


class ShareTest(SummedTest):
    """``alpha``: false alarms an hour and key."""

    name = "share"

    def __init__(self, alpha: float = DEFAULT_ALPHA) -> None:
        super().__init__(Evidence(len(_BETS), alpha, MAX_KEYS))
        self._hour = -1
        self._bits: dict[int, float] = {}
        self._usual: dict[int, float] = {}
        self._changed: set[int] = set()
        self.reference = ShareReference(self)

    def observe(self, key_id: int, bits: float, now_s: float) -> list[Firing]:
        """An answer's code length. The firings of the hour that it ends, if it does."""
        hour = int(now_s // HOUR_S)
        found = self._end_hour() if hour > self._hour else []
        self._hour = max(hour, self._hour)
        if key_id in self._bits or len(self._bits) < MAX_KEYS:
            self._bits[key_id] = self._bits.get(key_id, 0.0) + max(bits, 0.0)
        return found

    def shares(self) -> dict[int, float]:
        """Of the hour under way, by key."""
        total = sum(self._bits.values())
        return {key: bits / total for key, bits in self._bits.items()} if total else {}

    def _end_hour(self) -> list[Firing]:
        total, shares = sum(self._bits.values()), self.shares()
        self._bits = {}
        if total < LEAST_BITS:
            return []
        if not self._usual:  # the first hour is the reference
            self._usual = dict(shares)
            self._changed |= set(shares)
            return []
        found = []
        for key in sorted(set(shares) | set(self._usual)):
            share, usual = shares.get(key, 0.0), self._usual.get(key, 0.0)
            allowed = min(1.0, _GROWTH * usual + _FREE)
            factors = [math.log2(1 + bet * (share / allowed - 1)) for bet in _BETS]
            if self._sums.observe(key, factors):
                note = f"{share:.0%} of an hour's outflow went to this key, {usual:.1%} is usual"
                found.append(Firing("share", self.name, key, self._sums.limit_bits, note))
            self._learn(key, min(share, allowed))
        return found

    def _learn(self, key: int, share: float) -> None:
        usual = self._usual.get(key, 0.0)
        usual += (share - usual) / _MEMORY_HOURS
        if usual < 1e-6 or (key not in self._usual and len(self._usual) >= MAX_KEYS):
            self._usual.pop(key, None)
        else:
            self._usual[key] = usual
        self._changed.add(key)

    def take_usual(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """The usual shares that changed, for the book."""
        changed, self._changed = self._changed, set()
        for key in sorted(changed):
            yield key, [self._usual[key]] if key in self._usual else None

    def restore_usual(self, key: int, values: Sequence[float]) -> None:
        """From the book; ignored where unfit."""
        if len(values) == 1 and 0 < values[0] <= 1 and len(self._usual) < MAX_KEYS:
            self._usual[key] = values[0]


class ShareReference:
    """The usual shares of a ``ShareTest``, as rows of their own in the book."""

    name = "share-usual"

    def __init__(self, test: ShareTest) -> None:
        self._test = test

    def forget(self, subject: int) -> None:
        """Nothing: what was usual stays."""

    def take_changed(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """As of ``Detector``."""
        return self._test.take_usual()

    def restore(self, subject: int, values: Sequence[float]) -> None:
        """As of ``Detector``."""
        self._test.restore_usual(subject, values)
