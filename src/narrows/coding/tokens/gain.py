"""How lucky an answer's tokens were, for who watches: never for anything coded.

The *luck* of a token is its g of the shared noise (``noise.py``). An honest sampler's token won a
race, so its luck is in the mean -log2 p above that of any token: what coupled coding gains by. A
token that was chosen without regard to the noise is as lucky as any, whatever it says and
whoever chose it, and nothing that is sent before can change that. Counted is what is above
``LUCK_FLOOR_BITS``, which two tokens in nine have by chance; so a strong model that is certain,
whose tokens need no luck, takes little away.

The *room* says how much luck there was need for, and is known before the token: how far below the
weak model's best token the token is expected, under the posterior of ``coupled.py``, and at most
``ROOM_CAP_BITS``: a weak model that is far off sees more room than the strong one has, and with the
cap near ones and far ones agree. Where the weak model is certain there is none.

Both are by-products of the coder's own steps: nothing more is computed over the vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode

SEGMENT_TOKENS = 16
LUCK_FLOOR_BITS = 2.0
ROOM_CAP_BITS = 1.5
_ONE = 65536.0


class GainSegment(NamedTuple):
    """Sums over ``tokens`` tokens of an answer, ``SEGMENT_TOKENS`` but for its last ones."""

    luck_bits: float
    room_bits: float
    tokens: int


class GainCode(TokenCode):
    """A ``TokenCode`` that also sums luck. Plain answers have none."""

    def __init__(
        self, spec: AnswerSpec, coding: Coding, vocab_size: int, calibration: Calibration
    ) -> None:
        super().__init__(spec, coding, vocab_size, calibration)
        self._full: list[GainSegment] = []
        self._luck = self._room = 0.0
        self._summed = 0

    @property
    def coupled(self) -> bool:
        """Whether there is luck."""
        return self._coupled

    def update(self, token: int) -> None:
        """As of ``TokenCode``; the token's luck is summed first."""
        if self._coupled:
            luck = float(self._lucks[token]) / _ONE - LUCK_FLOOR_BITS
            self._luck += max(luck, 0.0)
            self._room += min(float(self._means[0]) / _ONE, ROOM_CAP_BITS)
            self._summed += 1
            if self._summed == SEGMENT_TOKENS:
                self._cut()
        super().update(token)

    def take(self, over: bool = False) -> list[GainSegment]:
        """The segments that were completed since the last call; ``over``: the last one too."""
        if over and self._summed:
            self._cut()
        full, self._full = self._full, []
        return full

    def _cut(self) -> None:
        self._full.append(GainSegment(self._luck, self._room, self._summed))
        self._luck = self._room = 0.0
        self._summed = 0
