"""The price of a tick is a code length: Kraft's inequality holds for every past."""

from __future__ import annotations

import functools
import itertools
import math
import random
from decimal import Decimal, getcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from narrows.gate.timing import (
    CONSTANT_EXCEPTION_UNITS,
    CONSTANT_NORMAL_UNITS,
    MAX_COUNT,
    UNITS_PER_BIT,
    LinkHistory,
    TickModel,
    cost_units,
    idle_bytes_per_day,
)

getcontext().prec = 40


@functools.cache
def mass(units: int) -> Decimal:
    """2^-(units / 2^24)."""
    return Decimal(2) ** (-Decimal(units) / UNITS_PER_BIT)


def test_no_probability_is_charged_below_its_code_length() -> None:
    for p in range(1, 1 << 16):
        bits = cost_units(p) / UNITS_PER_BIT
        ideal = 16 - math.log2(p)
        assert ideal - 1e-12 <= bits <= ideal + 3 / UNITS_PER_BIT
    assert cost_units(1 << 16) == 0


@pytest.mark.parametrize("p", [64, 65, 1000, 12345, 21845, 32767, 32768, 32769, 65472])
def test_a_decision_keeps_kraft_exactly(p: int) -> None:
    assert mass(cost_units(p)) + mass(cost_units((1 << 16) - p)) <= 1
    # as integers: 2^-(c/2^24) <= p/2^16, after raising to the 2^10th power of a coarser cost
    coarse = cost_units(p) // (UNITS_PER_BIT >> 10) + 1
    assert p**1024 << coarse >= (1 << 16) ** 1024


def representatives() -> list[tuple[int, int]]:
    """Counts that stand for all 1..2^24-1: (count, how many cost the same)."""
    found = []
    for length in range(1, 25):
        modelled = min(3, length - 1)
        free = length - 1 - modelled
        for top in range(1 << modelled):
            found.append((1 << (length - 1) | top << free, 1 << free))
    assert sum(many for _, many in found) == MAX_COUNT
    return found


def driven(seed: int, links: int) -> tuple[TickModel, list[LinkHistory]]:
    """A model after a random past, of a random temper."""
    rng = random.Random(seed)
    model, histories = TickModel(), [LinkHistory() for _ in range(links)]
    for _ in range(rng.choice([0, 1, 5, 50, 400])):
        temper = rng.random()
        seen = []
        for history in histories:
            closes = rng.random() < 0.01
            count = 0 if closes or rng.random() < temper else rng.randint(1, rng.choice([3, 4000]))
            seen.append((history, count, closes))
        model.tick(seen)
    return model, histories


@pytest.mark.parametrize("seed", range(12))
def test_kraft_over_every_tick_of_one_link(seed: int) -> None:
    model, [history] = driven(seed, 1)
    total = mass(model.preview([(history, 0, False)])) + mass(model.preview([(history, 0, True)]))
    for count, many in representatives():
        total += many * mass(model.preview([(history, count, False)]))
    assert total <= 1
    assert total > Decimal("0.7"), "unused: lengths 25..31, until they are unlearned"


def test_kraft_over_every_tick_of_two_links() -> None:
    model, histories = driven(4, 2)
    symbols = [(0, False, 1), (0, True, 1)] + [(n, False, m) for n, m in representatives()]
    total = Decimal(0)
    for (n, close, many), (k, shut, more) in itertools.product(symbols, repeat=2):
        seen = [(histories[0], n, close), (histories[1], k, shut)]
        total += many * more * mass(model.preview(seen))
    assert total <= 1


def test_kraft_over_every_run_of_three_ticks() -> None:
    """Adaptive over time: an attacker who steers the model gains nothing over all runs."""
    alphabet = [(0, False), (0, True), *((n, False) for n in range(1, 8))]
    total = Decimal(0)
    for run in itertools.product(alphabet, repeat=3):
        model, history = TickModel(), LinkHistory()
        total += mass(sum(model.tick([(history, n, c)]) for n, c in run))
    assert total <= 1


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 5000))
@settings(max_examples=60, deadline=None)
def test_charges_only_grow_and_preview_changes_nothing(seed: int, links: int, ticks: int) -> None:
    model, histories = driven(seed, links)
    seen = [(history, index, False) for index, history in enumerate(histories)]
    assert model.preview(seen) == model.preview(seen) == model.tick(seen) > 0
    other, others = driven(seed, links)
    other.tick([(history, index, False) for index, history in enumerate(others)])
    assert model.empty(ticks) == sum(other.empty() for _ in range(ticks))
    assert model.empty(ticks + 1) > 0


@given(st.integers(0, 2**32), st.integers(0, 24))
@settings(max_examples=60, deadline=None)
def test_longer_counts_never_cost_less_when_nothing_was_learned(low: int, places: int) -> None:
    count = low % MAX_COUNT + 1
    larger = min(MAX_COUNT, count << places)
    history = LinkHistory()
    fresh = TickModel()
    assert fresh.preview([(history, count, False)]) <= fresh.preview([(history, larger, False)])


def test_idle_costs_less_than_a_kilobyte_a_day() -> None:
    exact = 4_320_000 * -math.log2(1 - 2**-10) / 8
    assert exact <= idle_bytes_per_day(20) <= exact + 2
    assert idle_bytes_per_day(20) < 800


def test_after_any_past_silence_becomes_cheap() -> None:
    model, _ = driven(7, 3)
    model.empty(2000)
    assert model.empty() <= -math.log2(1 - 2**-10) * UNITS_PER_BIT + 2


def test_impossible_ticks_are_refused() -> None:
    for count, closes in [(MAX_COUNT + 1, False), (-1, False), (5, True)]:
        with pytest.raises(ValueError):
            TickModel().tick([(LinkHistory(), count, closes)])


def test_constant_pacing_keeps_kraft() -> None:
    assert mass(CONSTANT_NORMAL_UNITS) + 2 * mass(CONSTANT_EXCEPTION_UNITS) == 1
