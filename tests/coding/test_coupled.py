"""The coupled list: every token whose noisy score is near the best, and no other."""

from __future__ import annotations

import numpy as np
import pytest

from narrows.coding import coupled, noise, sampler
from narrows.coding.token_code_kernels import LIST_MAX


def scores(logits: np.ndarray, inverse: int, row: np.ndarray) -> np.ndarray:
    """Every token's score, the slow way."""
    words = np.empty(noise.padded(len(logits)), np.uint32)
    noise.words(row, words)
    top = int(logits.max())
    return np.array(
        [
            (int(noise.token_noise(row, i, words[i])) >> 8)
            - (((top - int(logits[i])) * inverse) >> 16)
            for i in range(len(logits))
        ]
    )


@pytest.mark.parametrize("temperature", [65536, 20_000, 200_000])
@pytest.mark.parametrize("spread", [0, 50_000, 400_000])
def test_the_list_is_the_window(temperature: int, spread: int) -> None:
    size = 1500
    raw = np.random.PCG64(spread).random_raw(size) >> np.uint64(40)
    logits = (raw.astype(np.int64) * spread // 2**23).astype(np.int32)
    inverse = sampler.inverse_q16(temperature)
    ids = np.empty(min(size, 4 * LIST_MAX), np.int32)
    base = np.empty(len(ids), np.int64)
    words = np.empty(noise.padded(size), np.uint32)
    for position in range(12):
        row = noise.noise_row(b"c" * 32, position)
        count = coupled.list_coupled(logits, inverse, row, words, ids, base)
        assert 1 <= count <= LIST_MAX
        a = scores(logits, inverse, row)
        window = 8
        while (a >= a.max() - (window << 16)).sum() > LIST_MAX:
            window -= 1
        want = np.flatnonzero(a >= a.max() - (window << 16))
        assert ids[:count].tolist() == want.tolist()
        assert base[:count].tolist() == (a[want] - a.max()).tolist()
