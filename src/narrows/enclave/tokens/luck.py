"""Whether tokens were drawn with a key, from the tokens and the key alone.

u(i) is the uniform behind token i's noise. Where the server ignores the key, the sent token's
-ln(1 - u) is Exp(1) whatever the model says, so n tokens sum to Gamma(n). Where it takes the key,
lucky tokens are sent and the sum is larger: 3.5 a token on a small model at T = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from narrows.coding.events import OWN_NOISE, Noise
from narrows.coding.tokens import noise

WINDOW_TOKENS = 256
MAX_WINDOW_TOKENS = 1 << 16
SAGS_ABOVE = 1e-4
"""Odds of ignoring the key that a window may leave open."""


def surprise(key: bytes, position: int, token: int, drawn: Noise = OWN_NOISE) -> float:
    """-ln(1 - u) of one token. Below the noise's tail u has 32 bits more than the noise sees,
    so that it is Exp(1) to the last digit."""
    u = int(noise.token_uniform(noise.row_of(drawn, key, position), token))
    return -math.log(((1 << 64) - u) / 2**64)


def total(key: bytes, start: int, tokens: Sequence[int], drawn: Noise = OWN_NOISE) -> float:
    """The sum over tokens at positions from ``start`` on. ``drawn``: which noise they are to be
    drawn with."""
    return sum(surprise(key, start + k, token, drawn) for k, token in enumerate(tokens))


def odds(count: int, total: float) -> float:
    """P(Gamma(count) >= total): how often tokens that ignore the key look so lucky."""
    if count < 1 or total <= 0:
        return 1.0
    k = np.arange(count)
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, count, dtype=np.float64)))])
    logs = k * math.log(total) - factorials - total
    top = float(logs.max())
    return min(1.0, math.exp(top) * float(np.exp(logs - top).sum()))


class Running:
    """The same while a server serves. ``sags`` is called once for each window of tokens that may
    as well have ignored their keys."""

    def __init__(self, sags: Callable[[int, float], None]) -> None:
        self._sags = sags
        self._window = WINDOW_TOKENS
        self.restart()

    def restart(self) -> None:
        self._count = 0
        self._total = 0.0

    def cleared(self) -> None:
        """A probe says that a window sagged for want of chance in its answers alone: look at
        more of them next time."""
        self._window = min(MAX_WINDOW_TOKENS, 2 * self._window)
        self.restart()

    def watch(
        self, key: bytes, start: int, tokens: Sequence[int], drawn: Noise = OWN_NOISE
    ) -> None:
        """Tokens of an answer that was asked for with ``key``."""
        self._count += len(tokens)
        self._total += total(key, start, tokens, drawn)
        if self._count < self._window:
            return
        count, sum_ = self._count, self._total
        self.restart()
        if odds(count, sum_) > SAGS_ABOVE:
            self._sags(count, sum_)
