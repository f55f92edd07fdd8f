"""The forecast of normal demand: right on its own past, quiet on it, loud beyond it."""

from __future__ import annotations

import random

import pytest

from narrows.alarms.burn import LEAST_HOURS, forecast_demand, headroom_bytes
from narrows.errors import InputError


def traffic(days: int, seed: int = 1) -> list[int]:
    """Busy by day, quiet by night, noisy always."""
    rng = random.Random(seed)
    level = [1.0 + 3.0 * (8 <= hour < 20) for hour in range(24)]
    return [round(1e5 * level[h % 24] * rng.lognormvariate(0, 0.3)) for h in range(24 * days)]


def test_the_past_lies_within_its_intervals_as_stated() -> None:
    found = forecast_demand(traffic(30), 10**9)
    assert 0.72 < found.backtest.within < 0.92
    assert found.backtest.above < 0.2
    assert not found.alarm
    assert found.backtest.error_over_naive is not None
    assert found.backtest.error_over_naive < 1
    day = sum(hour.median for hour in found.coming)
    assert day == pytest.approx(found.daily_bytes, rel=0.15)


def test_the_days_left_are_those_of_the_budget() -> None:
    hours = traffic(30)
    per_day = sum(hours) / 30
    low, middle, high = forecast_demand(hours, round(100 * per_day)).days_left
    assert low is not None
    assert middle is not None
    assert high is not None
    assert low <= middle <= high
    assert middle == pytest.approx(100, rel=0.1)
    assert forecast_demand([0] * 100, 10**9).days_left == (None, None, None)


def test_caps_let_normal_demand_pass_and_leave_little_to_a_thief() -> None:
    found = forecast_demand(traffic(30), 10**9)
    for cap in found.caps:
        assert cap.highest_bytes < cap.cap_bytes < 1.3 * cap.highest_bytes
        assert cap.refused is not None
        assert cap.refused < 0.01
    assert 0 < headroom_bytes(found.caps[0].cap_bytes, found) < found.caps[0].cap_bytes


@pytest.mark.parametrize("seed", [2, 3, 4])
def test_burning_more_than_is_normal_rings_within_a_day_and_half(seed: int) -> None:
    hours = traffic(30, seed)
    assert not forecast_demand(hours, 10**9).alarm
    thief = [one + 4 * 10**5 for one in traffic(2, seed + 100)]
    rang = [forecast_demand(hours + thief[:at], 10**9).alarm for at in (18, 36)]
    assert any(rang)


def test_too_little_past_is_an_error() -> None:
    with pytest.raises(InputError, match="too few"):
        forecast_demand([1] * (LEAST_HOURS - 1), 10)
