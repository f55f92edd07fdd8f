"""What the shared noise explained of an answer's tokens, for who watches: never for anything coded.

The *gain* of a token is log2 P - log2 q: P is the coupled posterior, q the weak model at the
answer's temperature, both without what the answer itself has taught (``kernels.py``), which a
thief could teach. An honest sampler's tokens are explained by their luck, so they gain; tokens
that were chosen without regard to the noise gain nothing in the mean, whatever they say.

Two figures, both known before the token, say how much there was to gain: the weak model's
*entropy*, and the *room* -2 log2 sum sqrt(P q). Where P is right an honest token's mean of
2^(-gain / 2) is 2^(-room / 2), so the room is the sharper one; but whoever sends tokens without
regard to the noise teaches P to ignore it (``coupled.py``), and then there is no room. The
entropy stays.

Floats of a few machine steps; each token's gain is held within +-``GAIN_CAP_BITS``.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens import kernels
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.models import distribution as dist

SEGMENT_TOKENS = 16
GAIN_CAP_BITS = 16.0
_ONE = 65536.0


class GainSegment(NamedTuple):
    """Sums over ``tokens`` tokens of an answer, ``SEGMENT_TOKENS`` but for its last ones."""

    gain_bits: float
    entropy_bits: float
    room_bits: float
    tokens: int


class GainCode(TokenCode):
    """A ``TokenCode`` that also sums gains. Plain answers have none."""

    def __init__(
        self, spec: AnswerSpec, coding: Coding, vocab_size: int, calibration: Calibration
    ) -> None:
        super().__init__(spec, coding, vocab_size, calibration)
        self._full: list[GainSegment] = []
        self._gain = self._entropy = self._room = 0.0
        self._summed = 0
        self._whole_bits = self._plain_bits = self._entropy_now = self._room_now = 0.0

    @property
    def coupled(self) -> bool:
        """Whether there are gains."""
        return self._coupled

    def update(self, token: int) -> None:
        """As of ``TokenCode``; the token's gain is summed first."""
        if self._coupled:
            self._add(token)
        super().update(token)

    def take(self, over: bool = False) -> list[GainSegment]:
        """The segments that were completed since the last call; ``over``: the last one too."""
        if over and self._summed:
            self._cut()
        full, self._full = self._full, []
        return full

    def _weigh(self, logits: NDArray[np.int32]) -> int:
        total = super()._weigh(logits)
        if self._coupled:
            self._whole_bits = math.log2(total)
            plain, entropy, alike = _compared(self._depths, self._weights)
            self._plain_bits, self._entropy_now = plain, entropy
            self._room_now = max(0.0, self._whole_bits + plain - 2 * alike)
        return total

    def _add(self, token: int) -> None:
        at = kernels.locate(self._ids, self._count, token)
        if at >= 0:
            posterior = self._base[at] / _ONE
        else:
            posterior = math.log2(max(int(self._weights[token]), 1)) - self._whole_bits
        gain = posterior + self._depths[token] / _ONE + self._plain_bits
        self._gain += min(max(gain, -GAIN_CAP_BITS), GAIN_CAP_BITS)
        self._entropy += self._entropy_now
        self._room += self._room_now
        self._summed += 1
        if self._summed == SEGMENT_TOKENS:
            self._cut()

    def _cut(self) -> None:
        self._full.append(GainSegment(self._gain, self._entropy, self._room, self._summed))
        self._gain = self._entropy = self._room = 0.0
        self._summed = 0


@njit(cache=True, nogil=True)
def _compared(depths: NDArray[np.int32], weights: NDArray[np.uint32]) -> tuple[float, float, float]:
    """Of q ~ 2**-depth and P ~ weight, in bits: log2 of the sum of 2**-depth, q's entropy, and
    log2 of the sum of sqrt(2**-depth * weight). What is deeper than 20 bits is left out."""
    total = deep = alike = 0.0
    for i in range(len(depths)):
        depth = depths[i]
        if depth < 20 << 16:
            weight = float(dist.power_of_two(depth, np.int32(dist.ONE_Q12)))
            total += weight
            deep += weight * depth
            alike += np.sqrt(weight * weights[i])
    bits = np.log2(total) - 32.0
    return bits, bits + deep / total / 65536.0, np.log2(max(alike, 1e-9)) - 16.0
