"""The token code of ``second/``, in plain Python integers, and the real one: bit for bit."""

from __future__ import annotations

import numpy as np
import pytest

from coding.second import noise as second_noise
from coding.second import tokens as second
from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens import calibrate, noise
from narrows.coding.tokens.calibrate import EXPONENTS, GAIN, Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.models import distribution as dist

PLAIN, COUPLED = int(Coding.PLAIN), int(Coding.COUPLED)


@pytest.mark.parametrize(
    ("coding", "size", "alphabet", "spread", "steps"),
    [
        (PLAIN, 40, 5, 80_000, 150),
        (PLAIN, 400, 30, 150_000, 80),
        (PLAIN, 1000, 40, 300_000, 40),
        (PLAIN, 3000, 3000, 300_000, 20),
        (PLAIN, 1200, 60, 10_000, 30),  # more than 512 are above 2**-11: fewer bits for the limit
        (PLAIN, 300, 20, 5_000_000, 40),  # nothing but one token has weight: j * M // n
        (COUPLED, 40, 5, 80_000, 50),
        (COUPLED, 2100, 40, 300_000, 6),
        (COUPLED, 1500, 60, 10_000, 6),
    ],
)
def test_both_give_the_same_shares_and_learn_the_same(
    coding: int, size: int, alphabet: int, spread: int, steps: int
) -> None:
    rng = np.random.default_rng([size, alphabet])
    prompt = tuple(int(x) for x in rng.integers(0, alphabet, 12))
    spec = AnswerSpec(prompt, 500, noise_key=bytes(range(32)), resume=prompt[:3])
    code = TokenCode(spec, Coding(coding), size, Calibration())
    mine = second.TokenCode(spec, coding, size, second.Calibration())
    escaped = 0
    for step in range(steps):
        logits = (rng.standard_normal(size) * spread).astype(np.int32)
        code.prepare(logits)
        mine.prepare([int(x) for x in logits])
        for target in (0, 2**32 - 1, *(int(x) for x in rng.integers(0, 2**32, 40))):
            assert code.find(target) == mine.find(target)
        token = int(rng.integers(alphabet))
        escaped += token not in mine.at
        for one in (code, mine):
            one.update(token)
            if step % 10 == 3:
                one.skip()
        assert [int(x) for x in code._scalars] == mine.scalars
    assert (escaped > 0) == (
        coding == COUPLED or size > 40
    )  # both kinds of tokens were learned from


def test_nothing_before_the_first_token() -> None:
    """No prompt: the weak model reads its end token, the token code has no history."""
    for coding in Coding:
        spec = AnswerSpec((), 9, noise_key=bytes(32))
        code = TokenCode(spec, coding, 60, Calibration())
        mine = second.TokenCode(spec, int(coding), 60, second.Calibration())
        for token in (7, 7, 50):
            code.prepare(np.arange(60, dtype=np.int32) * -20_000)
            mine.prepare(range(0, -1_200_000, -20_000))
            assert [code.find(low) for low in mine.lows[:-1]] == [
                mine.find(low) for low in mine.lows[:-1]
            ]
            code.update(token)
            mine.update(token)


def test_both_start_from_the_same_scalars_and_keep_the_same_mean() -> None:
    real, mine = Calibration(), second.Calibration()
    for name in second.START:
        for tokens in (1, 100, 70_000):
            ended = [(value * 7 - 90_001) % 200_000 - 60_000 for value in mine.scalars[name]]
            real.absorb(name, np.array(ended, np.int64), tokens)
            mine.absorb(name, ended, tokens)
            assert [int(x) for x in real.copy(name)] == mine.scalars[name]
    for temperature in (0, 1, 45_874, 45_875, 200_000):
        for coding in Coding:
            spec = AnswerSpec((), 9, temperature=temperature)
            name = calibrate.answer_class(spec, calibrate.is_coupled(spec, coding))
            assert second.TokenCode(spec, int(coding), 9, mine).name == name


def test_powers_logarithms_and_noise() -> None:
    rng = np.random.default_rng(8)
    one = np.int32(dist.ONE_Q12)
    for depth in (0, 1, 65535, 65536, 2**21 - 1, 2**21, 2**23, *rng.integers(0, 2**21, 300)):
        got = int(dist.power_of_two(np.int32(depth), one))
        assert second_noise.pow2(int(depth)) == got
    edges = [1, 2, 3, 2**56 - 1, 2**56, 2**63, 2**64 - 1, 2**64 - 2**56, 2**64 - 2**56 - 1]
    for y in (*edges, *(int(x) | 1 for x in np.random.PCG64(3).random_raw(1000))):
        assert second_noise.log2(y) == int(noise.log2_q40(np.uint64(y)))
        assert second_noise.gumbel(y) == int(noise.gumbel(np.uint64(y)))
    row = noise.noise_row(bytes(32), 5)
    words = np.empty(noise.padded(3000), np.uint32)
    noise.words(row, words)
    mine = second_noise.Noise(bytes(32), 5)
    for token in (0, 1, 255, 256, 1023, 1024, 2999):
        assert mine.word(token) == int(words[token])
        assert mine.exact(token) == int(noise.token_noise(row, token, words[token]))


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
