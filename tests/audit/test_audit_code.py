"""The audit's token code: a code at every step, and cheap where the strong model explains."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from narrows.audit import kernels
from narrows.audit.charge import credit_bytes, explained_q16, segment_cost_q16
from narrows.audit.code import ONE_BIT, TOTAL, AuditCode, Experience, Learned, bits_q16
from narrows.coding.tokens import noise
from narrows.coding.tokens.sampler import inverse_q16, sample
from narrows.models import distribution as dist

ONE = 65536
KEY = b"k" * 32


def rows(count: int, size: int, seed: int = 1, spread: float = 3.0) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((count, size)) * spread * ONE).astype(np.int32)


def run(
    logits: NDArray[np.int32], tokens: list[int], temperature: int = ONE, top_p: int = ONE,
    learned: Learned | None = None, key: bytes = KEY,
) -> float:  # fmt: skip
    code = AuditCode(logits.shape[1], temperature, top_p, key, learned or Learned())
    bits = 0
    for position, (row, token) in enumerate(zip(logits, tokens, strict=True)):
        code.prepare(row, position)
        bits += code.cost_q16(token)
        code.update(token)
    return bits / ONE_BIT


def sampled(
    logits: NDArray[np.int32], temperature: int = ONE, top_p: int = ONE, key: bytes = KEY
) -> list[int]:
    return [sample(row, temperature, top_p, key, n) for n, row in enumerate(logits)]


@pytest.mark.parametrize("size", [2, 40, 300])
@pytest.mark.parametrize(("temperature", "top_p"), [(ONE, ONE), (45875, 58982), (0, ONE)])
def test_kraft_holds_at_every_step_whatever_came_before(
    size: int, temperature: int, top_p: int
) -> None:
    """Sums over all tokens, exactly; the tokens that teach are hostile ones."""
    rng = np.random.default_rng(size)
    for spread in (0.01, 3.0, 40.0):
        logits = rows(20, size, seed=size, spread=spread)
        code = AuditCode(size, temperature, top_p, KEY, Learned())
        for position, row in enumerate(logits):
            code.prepare(row, position)
            shares = [code.share(token) for token in range(size)]
            assert min(shares) >= 1
            assert sum(shares) <= TOTAL
            costs = [code.cost_q16(token) for token in range(size)]
            assert sum(2.0 ** (-cost / ONE_BIT) for cost in costs) < 1
            code.update(int(rng.integers(size)) if position % 2 else code.winner)


def test_a_cost_is_never_rounded_down() -> None:
    for share in (1, 2, 3, TOTAL, TOTAL - 1, TOTAL // 3, (1 << 47) + 1):
        cost = bits_q16(share, 48)
        assert cost > ONE_BIT * (48 - math.log2(share))
        assert cost <= ONE_BIT * (48 - math.log2(share)) + 1


@pytest.mark.parametrize(("temperature", "top_p"), [(ONE, ONE), (45875, 58982), (131072, ONE)])
def test_the_winner_is_what_the_sampler_sends(temperature: int, top_p: int) -> None:
    for spread in (0.2, 3.0):
        logits = rows(40, 3000, seed=3, spread=spread)
        code = AuditCode(3000, temperature, top_p, KEY, Learned())
        for position, token in enumerate(sampled(logits, temperature, top_p)):
            code.prepare(logits[position], position)
            assert code.winner == token
            code.update(token)


@pytest.mark.parametrize("exponent", [1, 20, 900])
def test_the_list_is_what_a_search_of_all_tokens_finds(exponent: int) -> None:
    size = 2000
    logits = rows(3, size, seed=5)
    code = AuditCode(size, ONE, ONE, KEY, Learned(math.log(exponent)))
    a = exponent * 256
    words = np.zeros(noise.padded(size), np.uint32)
    for position, row in enumerate(logits):
        code.prepare(row, position)
        key_row = noise.noise_row(KEY, position)
        noise.words(key_row, words)
        top = int(row.max())
        f = []
        for i in range(size):
            depth = min(((top - int(row[i])) * inverse_q16(ONE)) >> 8, 1 << 31)
            luck = int(noise.token_noise(key_row, i, words[i]))
            f.append((a * (luck - depth)) >> 16)
        near = [i for i in range(size) if f[i] > max(f) - kernels.WINDOW_Q16]
        weights = {
            i: int(dist.power_of_two(np.int32(max(f) - f[i]), np.int32(dist.ONE_Q12))) for i in near
        }
        assert [code._listed(i) for i in range(size)] == [weights.get(i, 0) for i in range(size)]
        assert code._total == sum(weights.values())


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(ONE, ONE), (45875, ONE), (45875, 58982), (0, ONE)]
)
def test_full_agreement_costs_next_to_nothing(temperature: int, top_p: int) -> None:
    logits = rows(600, 500, seed=8)
    bits = run(logits, sampled(logits, temperature, top_p), temperature, top_p)
    assert bits / 600 <= 0.005


def test_other_noise_costs_what_the_distribution_says() -> None:
    """Who samples with noise of his own pays the entropy, and a little to find out."""
    logits = rows(400, 500, seed=9)
    tokens = sampled(logits, key=b"o" * 32)
    ideal = 0.0
    for row, token in zip(logits, tokens, strict=True):
        x = row.astype(np.float64) / ONE
        ideal += math.log2(np.exp2(x - x.max()).sum()) - (x[token] - x.max())
    assert ideal < run(logits, tokens) < 1.03 * ideal + 30


def test_numeric_noise_costs_what_is_undecided_and_is_learned() -> None:
    logits = rows(2000, 500, seed=10)
    error = np.random.default_rng(4).standard_normal(logits.shape) * 0.02 * ONE
    served = (logits + error).astype(np.int32)
    tokens = sampled(served)
    off = sum(a != b for a, b in zip(tokens, sampled(logits), strict=True)) / 2000
    bits = run(logits, tokens) / 2000
    assert 0.002 < off < 0.05
    assert bits < 0.05
    assert bits < 8 * off


def test_what_is_outside_the_nucleus_is_possible_and_dear() -> None:
    logits = rows(1, 500, seed=2)
    code = AuditCode(500, ONE, 6554, KEY, Learned())
    code.prepare(logits[0], 0)
    worst = int(logits[0].argmin())
    assert code.cost_q16(worst) / ONE_BIT == pytest.approx(13 + math.log2(500), abs=0.1)


def test_experience_moves_only_when_a_segment_is_complete() -> None:
    experience = Experience()
    learned = experience.start(greedy=False)
    learned.log_exponent = 5.0
    assert experience.start(greedy=False).log_exponent == pytest.approx(math.log(20))
    experience.absorb(False, learned, 32)
    assert experience.start(greedy=False).log_exponent == pytest.approx((5 + math.log(20)) / 2)
    assert experience.start(greedy=True).log_exponent == pytest.approx(math.log(20))


def test_a_segment_costs_at_most_one_bit_more_than_either_code() -> None:
    for audit, link in (
        (0, 0),
        (0, 700 * ONE_BIT),
        (5000 * ONE_BIT, 3),
        (90 * ONE_BIT + 1, 90 << 16),
    ):
        cost = segment_cost_q16(audit, link)
        exact = -math.log2(2.0 ** (-audit / ONE_BIT - 1) + 2.0 ** (-link / ONE_BIT - 1))
        assert exact * ONE_BIT <= cost <= exact * ONE_BIT + 1
        assert cost <= link + ONE_BIT
    assert explained_q16(ONE_BIT, 100 * ONE_BIT, 10) == 99 * ONE_BIT - 10
    assert credit_bytes(8 * ONE_BIT - 1) == 0
    assert credit_bytes(-5) == 0
    assert credit_bytes(80 * ONE_BIT) == 10
