"""Watching changes no bit, and says what the sampler's tokens owe to luck."""

from __future__ import annotations

import numpy as np
import pytest

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.coding.tokens.gain import ROOM_CAP_BITS, SEGMENT_TOKENS, GainCode
from narrows.coding.tokens.sampler import sample

SIZE = 300
SPEC = AnswerSpec((1, 2), 200, noise_key=b"\x07" * 32)


def rows(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [(rng.normal(0, 3, SIZE) * 65536).astype(np.int32) for _ in range(count)]


def summed(coding: Coding, tokens: list[int], logits: list[np.ndarray]) -> list:
    watched = GainCode(SPEC, coding, SIZE, Calibration())
    plain = TokenCode(SPEC, coding, SIZE, Calibration())
    for token, row in zip(tokens, logits, strict=True):
        watched.prepare(row)
        plain.prepare(row)
        assert watched.interval(token) == plain.interval(token)
        watched.update(token)
        plain.update(token)
    return watched.take(over=True)


def test_an_honest_sampler_is_lucky_and_a_thief_is_not() -> None:
    logits = rows(170)
    honest = [sample(row, 65536, 65536, SPEC.noise_key, at) for at, row in enumerate(logits)]
    rng = np.random.default_rng(4)
    weights = [np.exp2(row / 65536.0) for row in logits]
    stolen = [int(rng.choice(SIZE, p=weight / weight.sum())) for weight in weights]
    lucky, unlucky = (summed(Coding.COUPLED, tokens, logits) for tokens in (honest, stolen))
    assert [one.tokens for one in lucky] == [SEGMENT_TOKENS] * 10 + [10]
    luck = [sum(one.luck_bits for one in segments) / 170 for segments in (lucky, unlucky)]
    assert luck[1] == pytest.approx(0.34, abs=0.2)  # of any token: the mean of max(0, g - 2)
    assert luck[0] > 3 * luck[1]
    assert all(0 < one.room_bits <= ROOM_CAP_BITS * one.tokens for one in lucky)


def test_plain_answers_have_no_luck() -> None:
    assert summed(Coding.PLAIN, [5] * 40, rows(40)) == []
