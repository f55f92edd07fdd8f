"""The coupled posterior: its weights and expectations by slow arithmetic, and what it learns."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from narrows.coding.tokens import coupled, noise, sampler
from narrows.models import distribution as dist

ONE = 1 << 16


class Weighed:
    """Everything that ``coupled.weigh`` fills."""

    def __init__(
        self, logits: np.ndarray, a: int, b: int, position: int = 0, temperature: int = ONE
    ) -> None:
        size = len(logits)
        self.row = noise.noise_row(b"c" * 32, position)
        self.exponents = np.array([a, b], np.int64)
        self.words = np.empty(noise.padded(size), np.uint32)
        self.depths, self.lucks = np.empty(size, np.int32), np.empty(size, np.int32)
        self.weights = np.empty(size, np.uint32)
        self.blocks = np.empty(dist.block_count(size), np.uint64)
        self.means = np.empty(2, np.int64)
        self.total = coupled.weigh(
            logits,
            sampler.inverse_q16(temperature),
            self.row,
            self.exponents,
            self.words,
            self.depths,
            self.lucks,
            self.weights,
            self.blocks,
            self.means,
        )

    def learn(self, token: int) -> tuple[int, int]:
        coupled.learn(token, self.depths, self.lucks, self.means, self.exponents)
        return int(self.exponents[0]), int(self.exponents[1])


def random_logits(seed: int, size: int, spread: int) -> np.ndarray:
    raw = np.random.PCG64(seed).random_raw(size) >> np.uint64(40)
    return (raw.astype(np.int64) * spread // 2**23).astype(np.int32)


@pytest.mark.parametrize("temperature", [ONE, 20_000, 200_000])
@pytest.mark.parametrize("spread", [0, 50_000, 400_000, 2**29])
@pytest.mark.parametrize(("a", "b"), [(ONE, 0), (90_000, 80_000), (1 << 19, 1 << 19), (0, 0)])
def test_weights_follow_their_specification(temperature: int, spread: int, a: int, b: int) -> None:
    logits = random_logits(spread, 1500, spread)
    one = Weighed(logits, a, b, position=3, temperature=temperature)
    inverse, top = sampler.inverse_q16(temperature), int(logits.max())
    depths = [min(((top - int(x)) * inverse) >> 16, 2**23 - 1) for x in logits]
    assert one.depths.tolist() == depths
    f = [(b * int(g) - a * d) >> 16 for g, d in zip(one.lucks, depths, strict=True)]
    deep = [min(max(f) - x, 2**23 - 1) for x in f]
    want = [int(dist.power_of_two(np.int32(d), np.int32(dist.ONE_Q12))) for d in deep]
    assert one.weights.tolist() == want
    assert int(one.total) == sum(want) >= 2**32 - 1
    assert one.blocks.tolist() == [sum(want[k : k + 256]) for k in range(0, 1500, 256)]
    small = [w >> 12 for w in want]
    for mean, values in zip(one.means, (depths, one.lucks.tolist()), strict=True):
        assert int(mean) == Fraction(sum(map(lambda w, v: w * v, small, values)), sum(small)) // 1


def test_luck_is_the_samplers_noise_up_to_a_32nd_of_a_bit() -> None:
    """Where it is coarser, by the words' own grid, the token has hardly any chance to be sent."""
    size = 1 << 17
    one = Weighed(np.zeros(size, np.int32), ONE, ONE, position=9)
    exact = [int(noise.token_noise(one.row, i, one.words[i])) >> 8 for i in range(size)]
    error = np.abs(one.lucks - np.array(exact))
    assert error[one.words >= 2**32 - 2**26].max() == 0
    assert error[one.words > 2**26].max() <= ONE // 32
    assert one.lucks.min() > -7 * ONE


def test_no_luck_is_plain_coding() -> None:
    logits = random_logits(1, 3000, 400_000)
    one = Weighed(logits, ONE, 0)
    weights = np.empty(3000, np.uint32)
    dist.weigh(logits, dist.ONE_Q12, weights, np.empty(dist.block_count(3000), np.uint64))
    assert (one.weights == weights).all()


def test_each_exponent_moves_towards_the_token_and_stays_in_its_range() -> None:
    logits = random_logits(2, 1000, 400_000)
    one = Weighed(logits, ONE, ONE)
    likely, unlikely = int(logits.argmax()), int(logits.argmin())
    lucky, unlucky = int(one.lucks.argmax()), int(one.lucks.argmin())
    assert (
        Weighed(logits, ONE, ONE).learn(likely)[0]
        > ONE
        > Weighed(logits, ONE, ONE).learn(unlikely)[0]
    )
    assert (
        Weighed(logits, ONE, ONE).learn(lucky)[1]
        > ONE
        > Weighed(logits, ONE, ONE).learn(unlucky)[1]
    )
    for token in (unlikely, unlucky, likely, lucky):
        for start in (coupled.EXPONENT_MIN, coupled.EXPONENT_MAX):
            one = Weighed(logits, start, start)
            for _ in range(3):
                ends = one.learn(token)
            assert all(coupled.EXPONENT_MIN <= end <= coupled.EXPONENT_MAX for end in ends)
