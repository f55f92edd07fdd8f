"""The cost test: does an answer cost more a token than this key's answers do at this hour?

Needs no noise, so it looks at every coding. The null: whatever came before, an answer (or 256
tokens of it) costs Z times what was predicted, and the mean of min(Z, 8) is at most
``DRIFT`` = 1.5. Topics may drift by half without an alarm; the bets are
1 + b (min(Z, 8) / 1.5 - 1) of ``Evidence``, of each key, with alpha an observation.

Predicted: the mean bits a token of the key in this class (coding and temperature), pulled towards
the class at this hour of the day as long as the key has said little; and ``FIXED_BITS``. What is
learned is held within a factor of 2 of what was predicted, and nothing is learned from an
observation that raised an alarm.

Not seen: an enclave that was dishonest from the first day, one that becomes dearer by less than
half, or so slowly that the reference follows, and one whose payload costs what honest text costs:
without noise, a payload that is coded as plausible text is honest text to every observer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from narrows.alarms.detector import Firing
from narrows.alarms.evidence import MAX_SUBJECTS, Evidence, SummedTest

DEFAULT_ALPHA = 1e-6
DRIFT = 1.5
BLOCK_TOKENS = 256
FIXED_BITS = 64.0
"""Of an answer: opening, end, check and the coder's slack."""
CLASSES = 16
_BETS = (0.1, 0.3, 0.6)
_CAP = 8.0
_WARM_TOKENS = 4096.0
_MEMORY_TOKENS = 65536.0
_HOURS = 24


class CostReference:
    """Mean bits a token, by place: (key, class), (class, hour) and class, as numbers."""

    name = "cost-reference"

    def __init__(self, max_rows: int = MAX_SUBJECTS) -> None:
        self._rows: dict[int, tuple[float, float]] = {}  # bits a token, tokens
        self._changed: set[int] = set()
        self._max_rows = max_rows

    def predicted(self, key_id: int, kind: int, hour: int) -> float:
        """Bits a token; 0 as long as the class has said too little."""
        general, seen = self._rows.get(_class_row(kind), (0.0, 0.0))
        if seen < _WARM_TOKENS:
            return 0.0
        hourly = self._pulled(_hour_row(kind, hour), general)
        return self._pulled(_key_row(key_id, kind), hourly)

    def learn(self, key_id: int, kind: int, hour: int, bits: float, tokens: int) -> None:
        """What an honest observation cost."""
        for row in (_class_row(kind), _hour_row(kind, hour), _key_row(key_id, kind)):
            mean, seen = self._rows.pop(row, (bits / tokens, 0.0))
            weight = tokens / (tokens + min(seen, _MEMORY_TOKENS))
            self._rows[row] = (mean + weight * (bits / tokens - mean), seen + tokens)
            self._changed.add(row)
        while len(self._rows) > self._max_rows:
            oldest = next(iter(self._rows))
            del self._rows[oldest]
            self._changed.add(oldest)

    def _pulled(self, row: int, towards: float) -> float:
        mean, seen = self._rows.get(row, (0.0, 0.0))
        return (mean * seen + towards * _WARM_TOKENS) / (seen + _WARM_TOKENS)

    def forget(self, subject: int) -> None:
        """Nothing: what was honest stays."""

    def take_changed(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """As of ``Detector``."""
        changed, self._changed = self._changed, set()
        return ((row, self._rows.get(row)) for row in sorted(changed))

    def restore(self, subject: int, values: Sequence[float]) -> None:
        """As of ``Detector``."""
        fits = len(values) == 2 and all(0 < one < 1e15 for one in values)
        if fits and len(self._rows) < self._max_rows:
            self._rows[subject] = (values[0], values[1])


class CostTest(SummedTest):
    """``alpha``: false alarms an observation."""

    name = "cost"

    def __init__(self, reference: CostReference, alpha: float = DEFAULT_ALPHA) -> None:
        self._reference = reference
        super().__init__(Evidence(len(_BETS), alpha))

    def observe(
        self, key_id: int, kind: int, hour: int, bits: float, tokens: int, first: bool
    ) -> Firing | None:
        """At most ``BLOCK_TOKENS`` or so of an answer. ``kind``: 0..15; ``hour``: 0..23;
        ``first``: the answer's fixed bits are in ``bits``. An answer of no tokens has but these."""
        rate = self._reference.predicted(key_id, kind, hour)
        fixed = FIXED_BITS if first or not tokens else 0.0
        if rate <= 0:
            if tokens:
                self._reference.learn(key_id, kind, hour, max(bits - fixed, 0.0), tokens)
            return None
        ratio = min(bits / (rate * tokens + fixed), _CAP)
        factors = [math.log2(1 + bet * (ratio / DRIFT - 1)) for bet in _BETS]
        if self._sums.observe(key_id, factors):
            note = "answers cost more bits a token than this key's did"
            return Firing("cost", self.name, key_id, self._sums.limit_bits, note)
        if not tokens:
            return None
        plausible = min(max(bits - fixed, rate * tokens / 2), 2 * rate * tokens)
        self._reference.learn(key_id, kind, hour, plausible, tokens)
        return None


def _class_row(kind: int) -> int:
    return -1 - kind


def _hour_row(kind: int, hour: int) -> int:
    return -1 - CLASSES - (kind * _HOURS + hour % _HOURS)


def _key_row(key_id: int, kind: int) -> int:
    return key_id * CLASSES + kind
