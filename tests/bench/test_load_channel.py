"""What the receiver of ``narrows bench gate --load-channel`` makes of made-up round trips; and the
measurement itself, on cables of its own, for its form."""

from __future__ import annotations

import math
import os
import random

import pytest

from narrows.bench.load_channel import Probe, decode, measure

SYMBOL_S, PROBES = 0.02, 20


def read(busy_us: float, fewer: int = 0, seed: int = 1) -> tuple[float, float]:
    """Bits a second, and surely, from 1,000 symbols with round trips around 50 µs."""
    chance = random.Random(seed)
    bits = [chance.random() < 0.5 for _ in range(1000)]
    probes = []
    for index, bit in enumerate(bits):
        for number in range(PROBES - fewer * bit):
            middle = busy_us if bit else 50.0
            took_s = middle * math.exp(chance.gauss(0, 0.5)) * 1e-6
            probes.append(Probe(7.0 + (index + number / PROBES) * SYMBOL_S, took_s))
    found = decode("shared", bits, probes, 5_000, 7.0, SYMBOL_S)
    assert found.symbols == 500
    assert found.sure_bits_per_s <= found.bits_per_s <= 1 / SYMBOL_S
    return found.bits_per_s, found.sure_bits_per_s


def test_what_differs_is_read() -> None:
    assert read(150.0)[1] > 25
    assert read(50.0, fewer=8)[1] > 25  # the number of probes tells it, too


def test_where_nothing_differs_nothing_is_read() -> None:
    found = [read(50.0, seed=seed)[0] for seed in range(8)]
    assert sorted(found)[4] < 0.5
    assert all(read(50.0, seed=seed)[1] == 0 for seed in range(4))


def test_little_is_read_of_little() -> None:
    weak, strong = read(56.0)[0], read(80.0)[0]
    assert weak < strong


@pytest.mark.skipif(
    os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores"
)
def test_both_set_ups_can_be_measured() -> None:
    for setup in ("shared", "apart"):
        found = measure(setup, 1.0, 0.02, 3)
        assert found.symbols == 25
        assert 0 <= found.errors <= 25
        assert found.frames_per_s > 0
        assert found.idle_round_trip_us > 0


@pytest.mark.torture
@pytest.mark.skipif(
    os.geteuid() != 0 or len(os.sched_getaffinity(0)) < 2, reason="needs root and two cores"
)
@pytest.mark.parametrize(("setup", "charged_bits_per_s"), [("apart", 0.5), ("shared", 50.0)])
def test_no_more_is_read_than_is_charged_for_time(setup: str, charged_bits_per_s: float) -> None:
    """The best of three symbol lengths, as ``narrows bench gate --load-channel`` reports it."""
    read = [measure(setup, 60.0, symbol_s, 1) for symbol_s in (0.0025, 0.005, 0.02)]
    for found in read:
        print(f"{setup}: {found.bits_per_s:.3f} bit/s, {found.errors} of {found.symbols} wrong")
    assert max(found.sure_bits_per_s for found in read) <= charged_bits_per_s
