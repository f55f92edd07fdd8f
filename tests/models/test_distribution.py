"""The distribution against its specification in plain Python integers."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.errors import InputError
from narrows.models import distribution as dist


def spec_weight(depth: int, inverse: int) -> int:
    d = min(depth, 2**23 - 1)
    e = min((((d >> 8) * inverse) + (((d & 255) * inverse) >> 8)) >> 4, 2**21 - 1)
    n, f = e >> 16, e & 65535
    r = 6956 - ((880 * f + 32768) >> 16)
    assert 0 <= r * f + 32768 < 2**32
    r = 31384 - ((r * f + 32768) >> 16)
    assert 0 <= r * f + 65536 < 2**32
    r = 45422 - ((r * f + 65536) >> 17)
    assert 0 <= r * f < 2**32
    return (2**32 - 1 - r * f) >> n


def spec_lows(weights: list[int], listed: set[int], base: int) -> dict[int, tuple[int, int]]:
    """Token to (low, share), in Python integers, straight from steps 6 and 7."""
    others = [i for i in range(len(weights)) if i not in listed]
    total = sum(weights[i] for i in others)
    shift = max(0, total.bit_length() - 32)
    scale = 2**32 - base - len(others)
    mass, lows = 0, []
    for j, i in enumerate(others):
        lows.append(
            base + j + (mass >> shift) * scale // (total >> shift)
            if total
            else base + j + j * scale // len(others)
        )
        mass += weights[i]
    lows.append(2**32)
    return {i: (lows[j], lows[j + 1] - lows[j]) for j, i in enumerate(others)}


class Buffers:
    def __init__(self, logits: np.ndarray, inverse: int) -> None:
        size = len(logits)
        self.weights = np.empty(size, np.uint32)
        self.blocks = np.empty(dist.block_count(size), np.uint64)
        self.listed = np.zeros(size + len(self.blocks), np.uint16)
        self.total = dist.weigh(logits, inverse, self.weights, self.blocks)


def make_logits(seed: int, size: int, spread: int) -> np.ndarray:
    """Bell-shaped integers, the same for all numpy versions (raw words of PCG64)."""
    words = np.random.PCG64(seed).random_raw(size)
    parts = [(words >> np.uint64(s)) & np.uint64(65535) for s in (0, 16, 32, 48)]
    bell = sum(p.astype(np.int64) for p in parts) - 131070  # deviation 37,837
    return (bell * spread // 37_837).clip(-(2**30) + 1, 2**30 - 1).astype(np.int32)


def test_power_of_two_is_precise_for_every_fraction() -> None:
    f = np.arange(65536)
    logits = -f.astype(np.int32)
    got = Buffers(logits, dist.ONE_Q12).weights
    assert np.abs(got / 2**32 / 2.0 ** (-f / 65536) - 1).max() < 2**-15
    assert [int(w) for w in got[::4093]] == [spec_weight(int(d), 4096) for d in f[::4093]]


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 3, 255, 256, 257, 1000, 4096]),
    st.sampled_from([1, 100, 60_000, 300_000, 2**28]),
    st.sampled_from([1, 777, 2048, 4096, 4097, 9000, 32768]),
    st.integers(0, 12),
    st.sampled_from([0, 1, 2**31, 2**32 - 5000 - 2**12]),
)
def test_equals_specification(
    seed: int, size: int, spread: int, inverse: int, listed_count: int, base: int
) -> None:
    logits = make_logits(seed, size, spread)
    b = Buffers(logits, inverse)
    top = int(logits.max())
    expected = [spec_weight(top - int(v), inverse) for v in logits]
    assert b.weights.tolist() == expected
    assert int(b.total) == sum(expected)
    rng = np.random.default_rng(seed + 1)
    ids = rng.choice(size, min(listed_count, size - 1), replace=False).astype(np.int32)
    ids[:1] = np.argmax(logits)  # often everything that has weight
    ids = np.unique(ids).astype(np.int32)
    left = int(b.total) - int(dist.enlist(ids, b.weights, b.blocks, b.listed))
    base = base if len(ids) else 0
    want = spec_lows(expected, set(ids.tolist()), base)
    assert sum(share for _, share in want.values()) == 2**32 - base
    state = (b.weights, b.blocks, b.listed, np.uint64(left), size - len(ids), base)
    tokens = sorted(want)
    for token in {tokens[0], tokens[-1], *rng.choice(tokens, 20).tolist()}:
        low, share = want[token]
        assert share >= 1
        assert dist.interval(token, *state) == (low, share)
        for target in (low, low + share - 1):
            assert dist.find(target, *state) == (token, low, share)
    dist.delist(ids, b.listed, size)
    assert not b.listed.any()


def test_shares_follow_the_weights() -> None:
    logits = make_logits(3, 49152, 200_000)
    shares = dist.frequencies(logits)
    assert int(shares.sum(dtype=np.uint64)) == 2**32
    assert shares.min() >= 1
    b = Buffers(logits, dist.ONE_Q12)
    ideal = b.weights.astype(np.float64) * (2**32 - 49152) / float(b.total)
    assert np.abs(shares - ideal).max() < 4
    low, share = dist.interval(777, b.weights, b.blocks, b.listed, b.total, 49152, 0)
    assert (int(low), int(share)) == (int(shares[:777].sum(dtype=np.uint64)), int(shares[777]))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([2, 50, 700]),
    st.sampled_from([1, 20_000, 300_000]),
    st.integers(0, 65536),
)
def test_nucleus_is_the_shortest_sufficient_prefix(
    seed: int, size: int, spread: int, top_p: int
) -> None:
    logits = (make_logits(seed, size, spread) >> 9) << 9  # coarse: many ties
    b = Buffers(logits, dist.ONE_Q12)
    last_logit, last_id = dist.nucleus(logits, b.weights, b.total, top_p)
    order = sorted(range(size), key=lambda i: (-int(logits[i]), i))
    need, have, kept = (int(b.total) * top_p + 65535) >> 16, 0, []
    for token in order:
        kept.append(token)
        have += int(b.weights[token])
        if have >= need:
            break
    assert (last_logit, last_id) == (logits[kept[-1]], kept[-1])


def test_pinned() -> None:
    """The same digest on every machine; a change breaks every link and every artifact."""
    digest = hashlib.sha256()
    for seed, size in ((1, 300), (2, 49152), (3, 151936)):
        for inverse in (4096, 2048, 6000):
            digest.update(dist.frequencies(make_logits(seed, size, 250_000), inverse).tobytes())
    assert digest.hexdigest() == "d4d6f4c4a0ac4c89a1393baf36d91a43997d2c45ce163e34cd06d304d579704c"


def test_temperature_and_size_bounds() -> None:
    assert dist.inverse_q12(65536) == 4096
    assert dist.inverse_q12(1) == 32768
    assert dist.inverse_q12(131072) == 2048
    with pytest.raises(InputError):
        dist.inverse_q12(0)
    with pytest.raises(InputError):
        dist.block_count(1)
    with pytest.raises(InputError):
        dist.block_count(2**18 + 1)
