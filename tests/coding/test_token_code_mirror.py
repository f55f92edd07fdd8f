"""A second implementation of the online model in plain Python integers, bit for bit.

Written from the formulas in ``token_code_kernels``' docstring. The weak model's weights, integer
powers of two and logarithms are taken from ``distribution`` and ``noise``, whose own tests hold
them; listing, scores, shares and all that is learned are written again.
"""

from __future__ import annotations

from collections import defaultdict
from math import isqrt

import numpy as np
import pytest

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens import noise
from narrows.coding.tokens.calibrate import EXPONENTS, GAIN, Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.models import distribution as dist

ONE = 1 << 16


def clip(value: int, low: int, high: int) -> int:
    return max(low, min(high, value))


def slot(token: int, previous: int) -> int:
    h = token * 0x9E3779B1 % 2**32 ^ (previous + 1) * 0x85EBCA6B % 2**32
    return ((h ^ h >> 15) * 0x2C1B3C6D % 2**32) >> 17


def log2_share(part: int, whole: int) -> int:
    return (int(noise.log2_q40(np.uint64(part))) - int(noise.log2_q40(np.uint64(whole)))) >> 24


class Mirror:
    """The plain coding of one answer, token by token."""

    def __init__(self, history: list[int], vocab_size: int) -> None:
        self.scalars = [int(x) for x in Calibration().copy("plain")]
        self.history = list(history)
        self.vocab_size = vocab_size
        self.bias: defaultdict[int, int] = defaultdict(int)
        self.sums: defaultdict[int, int] = defaultdict(int)

    def run(self, token: int) -> int:
        """The longest run of tokens before here that also stands before an earlier ``token``."""
        past, best = self.history, 0
        for at in range(1, len(past)):
            if past[at] != token:
                continue
            length = 0
            while length < 15 and length < at and past[at - 1 - length] == past[-1 - length]:
                length += 1
            best = max(best, length)
        return best

    def prepare(self, logits: np.ndarray) -> None:
        size = self.vocab_size
        weights = np.zeros(size, np.uint32)
        total = dist.weigh(
            logits, dist.ONE_Q12, weights, np.zeros(dist.block_count(size), np.uint64)
        )
        mass, shift = int(total), 11
        while sum(int(w) > mass >> shift for w in weights) > 512:
            shift -= 1
        self.ids = [i for i, w in enumerate(weights) if int(w) > mass >> shift]
        count = len(self.ids)
        rest = mass - sum(int(weights[i]) for i in self.ids)
        self.base = [log2_share(int(weights[i]), mass) for i in self.ids]
        self.runs = [self.run(token) for token in self.ids]
        last = self.history[-1]
        scalars = self.scalars
        scores = [
            (scalars[0] * b >> 16)
            + scalars[2 + r]
            + (
                scalars[GAIN] * self.bias[slot(token, -1)]
                + scalars[GAIN + 1] * self.bias[slot(token, last)]
                >> 16
            )
            for token, b, r in zip(self.ids, self.base, self.runs, strict=True)
        ]
        scores.append(log2_share(max(rest, 1), mass) + scalars[1])
        top = max(scores)
        w = [
            int(dist.power_of_two(np.int32(min(top - f, 1 << 23)), np.int32(dist.ONE_Q12)))
            for f in scores
        ]
        z = sum(w)
        self.chances = [(x << 16) // z for x in w]
        shift = max(0, z.bit_length() - 32)
        whole, spread = (z >> shift) + 1, 2**32 - count - size
        self.shares = [1 + (x >> shift) * spread // whole for x in w[:-1]]
        if count == size:
            self.shares[-1] += 2**32 - sum(self.shares)

    def interval(self, token: int) -> tuple[int, int]:
        at = self.ids.index(token)
        return sum(self.shares[:at]), self.shares[at]

    def update(self, token: int) -> None:
        scalars, last = self.scalars, self.history[-1]
        slope, gains = 0, [0, 0]
        for k, i in enumerate(self.ids):
            g = ONE * (i == token) - self.chances[k]
            slope += g * self.base[k]
            mark = 2 + self.runs[k]
            scalars[mark] = clip(scalars[mark] + (g >> 6), -(2**20), 2**20)
            if abs(g) >= 64:
                places = (slot(i, -1), slot(i, last))
                gains = [x + g * self.bias[p] for x, p in zip(gains, places, strict=True)]
                for place in places:
                    self.adapt(place, g)
        g = -self.chances[-1]
        if token not in self.ids:
            g += ONE
            self.adapt(slot(token, -1), 32768)
            self.adapt(slot(token, last), 32768)
        scalars[1] = clip(scalars[1] + (g >> 6), -(2**20), 2**20)
        scalars[0] = clip(scalars[0] + (slope >> 27), 2**13, 2**19)
        for k, gain in enumerate(gains):
            scalars[GAIN + k] = clip(scalars[GAIN + k] + (gain >> 21), 0, 2**18)
        self.history.append(token)

    def adapt(self, place: int, g: int) -> None:
        quarters = min(self.sums[place] >> 14, 255)
        rate = 28_400 * ONE // isqrt(ONE * ONE * (4 + quarters) // 4)
        self.bias[place] = clip(self.bias[place] + (g * rate >> 16), -(2**20), 2**20)
        self.sums[place] += abs(g)


@pytest.mark.parametrize(
    ("size", "alphabet", "spread"),
    [
        (40, 5, 80_000),
        (400, 30, 150_000),
        (3000, 40, 300_000),
        (3000, 3000, 300_000),
        (1200, 60, 10_000),  # more than 512 are above 2**-11: fewer bits for the limit
    ],
)
def test_both_give_the_same_shares_and_learn_the_same(
    size: int, alphabet: int, spread: int
) -> None:
    rng = np.random.default_rng([size, alphabet])
    prompt = [int(x) for x in rng.integers(0, alphabet, 12)]
    code = TokenCode(AnswerSpec(tuple(prompt), 500), Coding.PLAIN, size, Calibration())
    mirror = Mirror(prompt, size)
    escaped = 0
    for _ in range(150):
        logits = (rng.standard_normal(size) * spread).astype(np.int32)
        code.prepare(logits)
        mirror.prepare(logits)
        for token in mirror.ids:
            assert code.interval(token) == mirror.interval(token)
        token = int(rng.integers(alphabet))
        escaped += token not in mirror.ids
        code.update(token)
        mirror.update(token)
        # The exponents after them belong to coupled answers.
        assert [int(x) for x in code._scalars[:EXPONENTS]] == mirror.scalars[:EXPONENTS]
    assert (escaped > 0) == (size > 40)  # both kinds of tokens were learned from


def test_gains_follow_what_the_answers_teach() -> None:
    """Where a token's past says something they rise, where it misleads they fall to no less
    than 0: both within what the docstring bounds."""
    size = 50
    rng = np.random.default_rng(5)

    def gains(tokens: list[int]) -> list[int]:
        code = TokenCode(AnswerSpec((0,), len(tokens)), Coding.PLAIN, size, Calibration())
        for token in tokens:
            code.prepare(np.zeros(size, np.int32))
            code.update(token)
        return [int(x) for x in code._scalars[GAIN:EXPONENTS]]

    start = [int(x) for x in Calibration().copy("plain")[GAIN:EXPONENTS]]
    habits = gains([int(x) for x in rng.integers(0, 4, 400)])
    assert habits[0] > start[0]
    assert max(habits) <= 1 << 18
    rounds = [int(x) for _ in range(60) for x in rng.permutation(size)]  # what came is spent
    spent = gains(rounds)
    assert spent[0] < start[0]
    assert min(spent) >= 0
