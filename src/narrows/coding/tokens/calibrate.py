"""What a link learns about its weak model, shared by all its answers: scalars only.

A ``Calibration`` belongs to one end of one link. Both ends must see the same sequence of
openings and closings; each ``TokenCode`` takes a copy when it opens and gives its own back
when it closes, so that neither batching nor the order of steps inside a round matters.

The scalars, int64 Q16, one set per class of answers (``answer_class``):

    [0] slope       factor on the listed tokens' log2 probabilities
    [1] escape      log2 factor on the mass of the tokens that are not listed
    [2..17] match   log2 bonus of a token that would continue a repetition of 0..15 tokens
    [18, 19] gain   factors on what the answer taught of a token, and of a pair of tokens: a
                    model that knows the writer's ways has less to learn from each answer
    [20, 21]        exponents of the weak model's probability and of the noise (coupled.py)

They say how good the weak model's probabilities are, not which tokens came: no content of one
API key's answers reaches another's.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from narrows.coding.events import AnswerSpec, Coding

SLOPE, ESCAPE, MATCH = 0, 1, 2
MATCH_LENGTHS = 16
GAIN = MATCH + MATCH_LENGTHS
EXPONENTS = GAIN + 2
SCALARS = EXPONENTS + 2
_ONE = 1 << 16
# An answer of so many tokens moves a scalar half-way to its own end. The exponents start far
# from where a distant weak model wants them, and steps within an answer are small.
_MEMORY_TOKENS = np.full(SCALARS, 2048, np.int64)
_MEMORY_TOKENS[EXPONENTS:] = 128

Scalars = NDArray[np.int64]

# Starting points, from development data (docs/coupled.md).
_START_MATCH = (-14000, -13000, 16000, 27000, 12000, 13000, 9500, 10000) + (4000,) * 8
_START = {  # slope, escape, gains
    "greedy": (int(1.25 * _ONE), 0, _ONE, _ONE),
    "cool": (int(1.15 * _ONE), 0, int(0.8 * _ONE), int(0.5 * _ONE)),
    "plain": (int(0.95 * _ONE), 0, int(0.8 * _ONE), int(0.5 * _ONE)),
    "coupled": (_ONE, 0, _ONE, _ONE),
}
_START_EXPONENTS = (int(1.4 * _ONE), int(1.25 * _ONE))


def answer_class(spec: AnswerSpec, coupled: bool) -> str:
    """Answers whose tokens the weak model predicts alike: by coding and temperature."""
    if coupled:
        return "coupled"
    if spec.temperature == 0:
        return "greedy"
    return "cool" if spec.temperature < 45875 else "plain"  # below 0.7


def is_coupled(spec: AnswerSpec, coding: Coding) -> bool:
    """Coupled coding needs noise, and a greedy answer has none."""
    return coding == Coding.COUPLED and spec.temperature > 0


class Calibration:
    """One per link and end: the scalars of each class, as the closed answers left them."""

    def __init__(self) -> None:
        self._scalars: dict[str, Scalars] = {}
        for name, (slope, escape, *gains) in _START.items():
            match = (0,) * MATCH_LENGTHS if name == "coupled" else _START_MATCH
            start = (slope, escape, *match, *gains, *_START_EXPONENTS)
            self._scalars[name] = np.array(start, np.int64)

    def copy(self, name: str) -> Scalars:
        """The scalars that an answer of this class starts from: its own array."""
        return self._scalars[name].copy()

    def absorb(self, name: str, scalars: Scalars, tokens: int) -> None:
        """An answer of ``tokens`` tokens ended with ``scalars``. A weighted mean, not a sum of
        steps, so that many answers open at once cannot overshoot together."""
        mine = self._scalars[name]
        mine += (scalars - mine) * tokens // (tokens + _MEMORY_TOKENS)
