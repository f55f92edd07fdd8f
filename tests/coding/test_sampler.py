"""The sampler draws from p exactly, and the same token everywhere."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from narrows.coding.tokens import noise, sampler
from narrows.errors import InputError
from narrows.models import distribution as dist

DRAWS = 100_000


def contexts() -> list[np.ndarray]:
    rng = np.random.PCG64(11)
    out = []
    for size, spread in ((2, 1), (40, 3), (300, 6), (1500, 2)):
        raw = rng.random_raw(size).astype(np.float64) / 2**64
        out.append((np.log2(raw) * spread * 65536).astype(np.int32))
    return out


def chi_square(counts: np.ndarray, p: np.ndarray) -> tuple[float, int]:
    """Statistic and degrees of freedom, cells of less than 20 expected draws merged."""
    expected = p * counts.sum()
    small = expected < 20
    got = np.append(counts[~small], counts[small].sum())
    want = np.append(expected[~small], expected[small].sum())
    keep = want > 0
    assert not got[~keep].any()
    if want[-1] < 20 and keep[-1]:
        got, want, keep = got[:-1], want[:-1], keep[:-1]
    return float(((got[keep] - want[keep]) ** 2 / want[keep]).sum()), int(keep.sum()) - 1


@pytest.mark.parametrize(
    ("temperature", "top_p", "draws"),
    [(65536, 65536, DRAWS), (45875, 52429, DRAWS // 5), (98304, 65536, DRAWS // 5)],
)
def test_chi_square_over_fixed_contexts(temperature: int, top_p: int, draws: int) -> None:
    """10**5 draws a context at T = 1. 5.5 deviations of the chi-square: chance alone fails once
    in 10**7 keys, and the key is fixed."""
    for number, logits in enumerate(contexts()):
        weights = np.exp2((logits - logits.max()) / temperature)
        if top_p < 65536:
            order = np.lexsort((np.arange(len(logits)), -logits))
            mass = np.cumsum(weights[order]) / weights.sum()
            cut = int(np.searchsorted(mass, top_p / 65536)) + 1
            weights[order[cut:]] = 0
        counts = np.zeros(len(logits), np.int64)
        key = bytes([number]) * 32
        for position in range(draws):
            counts[sampler.sample(logits, temperature, top_p, key, position)] += 1
        statistic, freedom = chi_square(counts, weights / weights.sum())
        if freedom > 0:
            assert statistic < freedom + 5.5 * (2 * freedom) ** 0.5 + 15, (number, statistic)


def slow_sample(logits: np.ndarray, temperature: int, key: bytes, position: int) -> int:
    """Every token's noise, no short cut."""
    words = np.empty(noise.padded(len(logits)), np.uint32)
    row = noise.noise_row(key, position)
    noise.words(row, words)
    inverse = sampler.inverse_q16(temperature)
    top = int(logits.max())
    scores = [
        (int(noise.token_noise(row, i, words[i])) << 8) - (top - int(logits[i])) * inverse
        for i in range(len(logits))
    ]
    return scores.index(max(scores))


@pytest.mark.parametrize("temperature", [65536, 20000, 131072])
def test_the_filter_changes_nothing(temperature: int) -> None:
    for logits in contexts():
        for position in range(60):
            key = bytes(range(32))
            fast = sampler.sample(logits, temperature, 65536, key, position)
            assert fast == slow_sample(logits, temperature, key, position)


def test_greedy_takes_the_lowest_of_equals_and_no_noise() -> None:
    logits = np.array([1, 7, 7, 3], np.int32)
    assert {sampler.sample(logits, 0, 65536, bytes(32), n) for n in range(5)} == {1}
    assert sampler.sample(np.full(4, -5, np.int32), 0, 1, bytes(32), 0) == 0


def test_nearly_zero_top_p_is_greedy() -> None:
    logits = contexts()[2]
    best = int(np.argmax(logits))
    assert {sampler.sample(logits, 65536, 1, bytes(32), n) for n in range(50)} == {best}


def test_same_tokens_across_threads_and_order() -> None:
    logits = contexts()[3]
    want = [sampler.sample(logits, 65536, 60000, b"k" * 32, n) for n in range(200)]
    got: list[int] = [-1] * 200

    def work(start: int) -> None:
        for n in reversed(range(start, 200, 4)):
            got[n] = sampler.sample(logits, 65536, 60000, b"k" * 32, n)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


def test_improbable_tokens_come_as_often_as_they_should() -> None:
    """The tail of the noise decides for them: one token of 2**-9 beside a certain one, and a
    token 40 bits down that must not appear."""
    logits = np.array([0, -9 * 65536, -40 * 65536], np.int32)
    hits = [sampler.sample(logits, 65536, 65536, b"t" * 32, n) for n in range(DRAWS)]
    mean = DRAWS / 513
    assert abs(hits.count(1) - mean) < 5 * mean**0.5
    assert hits.count(2) == 0


def test_refuses_nonsense() -> None:
    logits = np.zeros(4, np.int32)
    for temperature, top_p in ((-1, 65536), (65536, 0), (65536, 65537)):
        with pytest.raises(InputError):
            sampler.sample(logits, temperature, top_p, bytes(32), 0)
    with pytest.raises(InputError):
        sampler.sample(logits, 65536, 65536, bytes(31), 0)
    with pytest.raises(InputError):
        dist.block_count(0)
