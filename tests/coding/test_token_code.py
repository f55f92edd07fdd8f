"""The code of one answer's tokens: a partition of the range, the same at both ends."""

from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.coding.events import AnswerSpec, Coding
from narrows.coding.tokens.calibrate import Calibration
from narrows.coding.tokens.code import TokenCode
from narrows.coding.tokens.kernels import LIST_MAX
from narrows.coding.tokens.sampler import sample
from narrows.errors import LinkError

KEY = bytes(range(32))


def logits(seed: int, size: int, spread: int = 200_000) -> np.ndarray:
    words = np.random.PCG64(seed).random_raw(size)
    parts = [(words >> np.uint64(s)) & np.uint64(65535) for s in (0, 16, 32, 48)]
    bell = sum(p.astype(np.int64) for p in parts) - 131070
    return (bell * spread // 37_837).clip(-(2**30) + 1, 2**30 - 1).astype(np.int32)


def spec(temperature: int = 65536, **more: object) -> AnswerSpec:
    return AnswerSpec((1, 0, 0, 1, 0), 100, temperature, noise_key=KEY, **more)  # type: ignore[arg-type]


def pair(size: int, coding: Coding, temperature: int = 65536) -> tuple[TokenCode, TokenCode]:
    return tuple(  # type: ignore[return-value]
        TokenCode(spec(temperature), coding, size, Calibration()) for _ in range(2)
    )


@pytest.mark.parametrize("coding", [Coding.PLAIN, Coding.COUPLED])
@pytest.mark.parametrize("temperature", [0, 30000, 65536, 131072])
@pytest.mark.parametrize("size", [2, 3, 257, 700])
def test_shares_partition_the_range_at_every_step(
    coding: Coding, temperature: int, size: int
) -> None:
    code = TokenCode(spec(temperature), coding, size, Calibration())
    rng = np.random.default_rng(size)
    for step in range(12):
        code.prepare(logits(step, size, 10 ** rng.integers(1, 9)))
        spans = sorted((*code.interval(token), token) for token in range(size))
        edge = 0
        for low, share, token in spans:
            assert low == edge
            assert share >= 1
            edge = low + share
            assert code.find(low) == (token, low, share)
            assert code.find(edge - 1) == (token, low, share)
        assert edge == 2**32
        code.update(int(rng.integers(size)))


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([Coding.PLAIN, Coding.COUPLED]),
    st.sampled_from([0, 1, 20000, 65536, 10**6]),
    st.sampled_from([2, 300, 5000]),
    st.sampled_from([0, 1000, 100_000, 2**27]),
    st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12),
)
def test_decoder_follows_encoder_on_any_targets(
    seed: int, coding: Coding, temperature: int, size: int, spread: int, targets: list[int]
) -> None:
    """Hostile bytes are just targets: every one decodes, and an encoder agrees with it."""
    decoder, encoder = pair(size, coding, temperature)
    for step, target in enumerate(targets):
        row = logits(seed + step, size, spread)
        decoder.prepare(row)
        token, low, share = decoder.find(target)
        assert low <= target < low + share
        encoder.prepare(row)
        assert encoder.interval(token) == (low, share)
        decoder.update(token)
        encoder.update(token)


def test_everything_equal_and_everything_peaked() -> None:
    for size in (2, 300, 3000):
        for coding in (Coding.PLAIN, Coding.COUPLED):
            code = TokenCode(spec(), coding, size, Calibration())
            flat = np.zeros(size, np.int32)
            peaked = np.full(size, -(2**29), np.int32)
            peaked[size - 1] = 2**29
            for row in (flat, peaked, flat):
                code.prepare(row)
                for target in (0, 2**31, 2**32 - 1):
                    token, low, share = code.find(target)
                    assert code.interval(token) == (low, share)
                code.update(size - 1)


def test_preparing_again_changes_nothing() -> None:
    once, twice = pair(900, Coding.COUPLED)
    for step in range(5):
        once.prepare(logits(step, 900))
        twice.prepare(logits(99, 900))
        twice.prepare(logits(step, 900))
        assert [once.interval(t) for t in range(0, 900, 7)] == [
            twice.interval(t) for t in range(0, 900, 7)
        ]
        once.update(step)
        twice.update(step)


def test_it_learns_a_repetition() -> None:
    code = TokenCode(spec(), Coding.PLAIN, 500, Calibration())
    costs = []
    for step in range(60):
        code.prepare(np.zeros(500, np.int32))
        costs.append(code.cost_bits(7 + step % 3))
        code.update(7 + step % 3)
    assert costs[0] > 8.9
    assert sum(costs[-6:]) < 0.5 * sum(costs[:6])


def costs(answers: int, strong_spread: int, strong_share: int) -> tuple[float, float, float]:
    """Bits coupled and plain, and the strong model's entropy, where the weak model's logits are
    the strong one's divided by ``strong_share``, plus noise."""
    calibrations = {coding: Calibration() for coding in (Coding.COUPLED, Coding.PLAIN)}
    bits = dict.fromkeys(calibrations, 0.0)
    entropy = 0.0
    for answer in range(answers):
        key = bytes([answer]) * 32
        codes = {
            coding: TokenCode(AnswerSpec((), 60, noise_key=key), coding, 2000, calibration)
            for coding, calibration in calibrations.items()
        }
        for position in range(60):
            strong = logits(answer * 1000 + position, 2000, strong_spread)
            weak = strong // strong_share
            weak = weak + logits(7_000_000 + answer * 1000 + position, 2000, 20_000)
            p = np.exp2(strong / 65536.0)
            p /= p.sum()
            entropy -= float((p * np.log2(p)).sum())
            token = sample(strong, 65536, 65536, key, position)
            for coding, code in codes.items():
                code.prepare(weak)
                bits[coding] += code.cost_bits(token)
                code.update(token)
        for code in codes.values():
            code.close()
    return bits[Coding.COUPLED], bits[Coding.PLAIN], entropy


def test_coupling_pays_for_near_models_and_never_loses_a_token() -> None:
    """The weak model is the strong one with noise; coupled costs well below the entropy."""
    coupled, plain, entropy = costs(4, 150_000, 1)
    assert coupled < 0.5 * entropy < 0.6 * plain


def test_coupling_pays_for_far_models_too() -> None:
    """The weak model knows little more than which 2,000 tokens there are; the luck still tells."""
    coupled, plain, _ = costs(5, 200_000, 8)
    assert coupled < 0.85 * plain


def test_resumed_answers_keep_their_noise() -> None:
    """Position counts what was delivered before: the same noise as without the break."""
    row = logits(5, 800)
    resumed = TokenCode(spec(resume=(3, 4, 5)), Coding.COUPLED, 800, Calibration())
    resumed.prepare(row)
    token = sample(row, 65536, 65536, KEY, 3)
    plain = TokenCode(spec(), Coding.PLAIN, 800, Calibration())
    plain.prepare(row)
    assert resumed.cost_bits(token) < plain.cost_bits(token) / 2
    fresh = TokenCode(spec(), Coding.COUPLED, 800, Calibration())
    fresh.prepare(row)
    assert fresh.cost_bits(token) > resumed.cost_bits(token)


def test_greedy_answers_are_plain_whatever_is_asked() -> None:
    left, right = pair(300, Coding.PLAIN, 0)[0], pair(300, Coding.COUPLED, 0)[0]
    left.prepare(logits(1, 300))
    right.prepare(logits(1, 300))
    assert [left.interval(t) for t in range(300)] == [right.interval(t) for t in range(300)]


def test_lists_are_bounded() -> None:
    for coding in (Coding.PLAIN, Coding.COUPLED):
        code = TokenCode(spec(), coding, 50_000, Calibration())
        for spread in (1, 30_000):
            code.prepare(logits(1, 50_000, spread))
            assert code._count <= LIST_MAX
            token, low, share = code.find(12345)
            assert code.interval(token) == (low, share)


def test_out_of_range_tokens_are_refused() -> None:
    with pytest.raises(LinkError):
        TokenCode(AnswerSpec((300,), 10), Coding.PLAIN, 300, Calibration())
    code = TokenCode(spec(), Coding.PLAIN, 300, Calibration())
    code.prepare(logits(1, 300))
    for token in (-1, 300):
        with pytest.raises(LinkError):
            code.interval(token)


@pytest.mark.parametrize("coding", [Coding.PLAIN, Coding.COUPLED])
def test_pinned(coding: Coding) -> None:
    """Shares and adaptation (exponents included) of a fixed history: other digests, other wire."""
    digest = hashlib.sha256()
    calibration = Calibration()
    for answer in range(2):
        code = TokenCode(spec(), coding, 3000, calibration)
        for step in range(25):
            code.prepare(logits(answer * 100 + step, 3000))
            token = sample(logits(answer * 100 + step, 3000), 65536, 65536, KEY, step)
            digest.update(repr(code.interval(token)).encode())
            digest.update(repr(code.interval(step)).encode())
            code.update(token)
        code.close()
    assert digest.hexdigest() == PINS[coding]


PINS = {
    Coding.PLAIN: "7e7da719bf419346a6f8d1381e6d4109b9f0a47df92095a69476c2979f2e51c8",
    Coding.COUPLED: "57e5c0e3a4df694897f7e63018a72729ed0f821f2e569a51bb060c3b41db70c5",
}


def test_cost_is_the_share() -> None:
    code = TokenCode(spec(), Coding.PLAIN, 300, Calibration())
    code.prepare(logits(1, 300))
    assert code.cost_bits(5) == pytest.approx(32 - math.log2(code.interval(5)[1]))
