"""Encoders that hide a random payload in honest-looking answers, with their decoders: what they
carry is charged. Their receiver knows everything: weights, noise, the encoder."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from audit.test_audit_code import KEY, ONE, rows
from narrows.alarms.sequential import Alarm
from narrows.audit.code import ONE_BIT, AuditCode, Learned
from narrows.coding.tokens import noise
from narrows.models import distribution as dist

SIZE = 200
SLACK_BITS = 20  # P(charge <= payload - 20) <= 2**-20


@functools.cache
def luck(position: int) -> NDArray[np.float64]:
    """g of all tokens, in bits."""
    row, words = noise.noise_row(KEY, position), np.zeros(noise.padded(SIZE), np.uint32)
    noise.words(row, words)
    return np.array([int(noise.token_noise(row, i, words[i])) / 2**24 for i in range(SIZE)])


def scores(logits: NDArray[np.int32], position: int) -> NDArray[np.float64]:
    """log2 p + g, in bits."""
    return np.asarray(logits / ONE + luck(position))


def charges(logits: NDArray[np.int32], tokens: list[int]) -> list[float]:
    code, costs = AuditCode(SIZE, ONE, ONE, KEY, Learned()), []
    for position, (row, token) in enumerate(zip(logits, tokens, strict=False)):
        code.prepare(row, position)
        costs.append(code.cost_q16(token) / ONE_BIT)
        code.update(token)
    return costs


class Bits:
    """A payload, read from the front; what was read."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self.read: list[int] = []

    def take(self, count: int) -> int:
        value = 0
        for _ in range(count):
            self.read.append(self._rng.getrandbits(1))
            value = value * 2 + self.read[-1]
        return value


Candidates = Callable[[NDArray[np.float64]], list[int]]


def near(epsilon: float, most: int) -> Candidates:
    """The winner and those that come within ``epsilon`` bits of it: a power of two of them."""

    def candidates(score: NDArray[np.float64]) -> list[int]:
        order = np.argsort(-score)[:most]
        close = [int(i) for i in order if score[i] > score[order[0]] - epsilon]
        return close[: 1 << (len(close).bit_length() - 1)]

    return candidates


def every(count: int, inner: Candidates) -> Candidates:
    """Only at positions that the scores themselves pick, one in ``count``: a shy thief."""

    def candidates(score: NDArray[np.float64]) -> list[int]:
        chosen = inner(score)
        return chosen if int(abs(score[chosen[0]]) * 1e6) % count == 0 else chosen[:1]

    return candidates


PICKERS = {
    "the runner-up within 0.1 bit": near(0.1, 2),
    "any of eight within 0.5 bit": near(0.5, 8),
    "the runner-up within 0.25 bit, seldom": every(4, near(0.25, 2)),
}


@pytest.mark.parametrize("name", PICKERS)
def test_who_picks_within_the_numeric_noise_pays_for_it(name: str) -> None:
    pick = PICKERS[name]
    for seed in range(3):
        logits, payload = rows(300, SIZE, seed=seed), Bits(seed)
        tokens = []
        for position, row in enumerate(logits):
            close = pick(scores(row, position))
            tokens.append(close[payload.take(len(close).bit_length() - 1)])
        received: list[int] = []  # the decoder
        for position, (row, token) in enumerate(zip(logits, tokens, strict=True)):
            close = pick(scores(row, position))
            width = len(close).bit_length() - 1
            at = close.index(token)
            received += [at >> shift & 1 for shift in reversed(range(width))]
        assert received == payload.read
        assert len(received) > 3
        charged = sum(charges(logits, tokens))
        print(f"{name}: payload {len(received)} bits, charge {charged:.0f}")
        assert len(received) <= charged + SLACK_BITS


def embed(logits: NDArray[np.int32], value: int, bits: int) -> list[int]:
    """Tokens that are a sample of p and name a number of ``bits`` bits: arithmetic decoding with
    exact integers. Ends as soon as they say which."""
    low, high, scale, tokens = 0, 1 << bits, 1, []
    point = value * 2 + 1  # the middle of its cell, doubled
    for row in logits:
        if high - low <= scale:  # no wider than a cell, and around its middle
            break
        bounds = np.concatenate([[0], np.cumsum(dist.frequencies(row).astype(np.int64))])
        width = high - low
        low, high, scale = low << 32, high << 32, scale << 32
        at = (point * scale // 2 - low) // width
        token = int(np.searchsorted(bounds, at, "right")) - 1
        low, high = low + width * int(bounds[token]), low + width * int(bounds[token + 1])
        tokens.append(token)
    return tokens


def extract(logits: NDArray[np.int32], tokens: list[int], bits: int) -> int:
    """What ``embed`` was given."""
    low, high, scale = 0, 1 << bits, 1
    for row, token in zip(logits, tokens, strict=False):
        bounds = np.concatenate([[0], np.cumsum(dist.frequencies(row).astype(np.int64))])
        width = high - low
        low, high, scale = low << 32, high << 32, scale << 32
        low, high = low + width * int(bounds[token]), low + width * int(bounds[token + 1])
    return (low + high) // (2 * scale)


def test_a_full_entropy_thief_is_charged_his_payload_and_heard() -> None:
    for seed in range(4):
        logits, bits = rows(600, SIZE, seed=seed), 1200
        value = random.Random(seed).getrandbits(bits)
        tokens = embed(logits, value, bits)
        assert extract(logits, tokens, bits) == value
        costs = charges(logits, tokens)
        print(f"payload {bits} bits, charge {sum(costs):.0f}, {len(tokens)} tokens")
        assert bits <= sum(costs) + SLACK_BITS
        alarm = Alarm()
        heard = next(n for n, cost in enumerate(costs) if alarm.observe(cost, 1))
        assert bits * (heard + 1) / len(tokens) < 1000
