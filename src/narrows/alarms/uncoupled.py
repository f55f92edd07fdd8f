"""Answers that were not coupled where the upstream couples.

The null: whatever came before, an answer that can be coupled is not with a chance of at most 1 in
16. (So an honest encoder tries the dearer coding: ``coding/tokens/choice.py``.) Which can be is
``edge/watch.py``'s affair: at T > 0, with a conversation, whose draw no parameter shapes, and only
once it has said anything. The null is false where an upstream stops coupling, where PLAIN has
become the cheaper coding, and for messages that the strong model's template does not take, which
go as text: such a client rings for himself, and for all. The bets of
``Evidence`` are 1 + b (16 x - 1) for x = 1 where it was uncoupled, else 0: of each key and of all,
with alpha / 2 each. Eight such answers in a row are an alarm.

Whether the upstream couples: as configured, or from the time on at which three quarters of its
answers did. One that never coupled is not seen by ``auto``: then say ``always``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from narrows.alarms.detector import EVERYONE, Firing
from narrows.alarms.evidence import Evidence, SummedTest

DEFAULT_ALPHA = 1e-6
_MOST_SHARE = 1 / 16
_BETS = (0.1, 0.5)
_LEARN = 1 / 64
_SEEN = -2  # the row of what was learned, no subject


class UncoupledTest(SummedTest):
    """``couples``: ``auto``, ``always`` or ``never`` (then nothing is tested)."""

    name = "uncoupled"

    def __init__(self, couples: str = "auto", alpha: float = DEFAULT_ALPHA) -> None:
        self._couples = couples
        super().__init__(Evidence(len(_BETS), alpha / 2))
        self._share = 0.0  # of answers that coupled, lately
        self._latched = couples == "always"
        self._changed = False

    def observe(self, key_id: int, coupled: bool) -> list[Firing]:
        """An answer that can be coupled has begun."""
        if self._couples == "never":
            return []
        if not self._latched:
            self._share += _LEARN * (coupled - self._share)
            self._latched = self._share > 0.75
            self._changed = True
            return []
        factors = [math.log2(1 + bet * (16 * (not coupled) - 1)) for bet in _BETS]
        found = []
        for subject, whose in ((key_id, "this key's"), (EVERYONE, "the edge's")):
            if self._sums.observe(subject, factors):
                note = f"more than 1 in 16 of {whose} answers at T > 0 are not coupled"
                found.append(Firing("uncoupled", self.name, subject, self._sums.limit_bits, note))
        return found

    def take_changed(self) -> Iterator[tuple[int, Sequence[float] | None]]:
        """As of ``Detector``."""
        if self._changed:
            self._changed = False
            yield _SEEN, [float(self._share), float(self._latched)]
        yield from super().take_changed()

    def restore(self, subject: int, values: Sequence[float]) -> None:
        """As of ``Detector``."""
        if subject != _SEEN:
            super().restore(subject, values)
        elif len(values) == 2 and all(0 <= one <= 1 for one in values):
            self._share = values[0]
            self._latched = self._latched or values[1] == 1.0
