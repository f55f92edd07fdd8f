"""The numbers behind the pictures, free of any chart library; HTML and PNG draw the same.

Times are days, sizes bytes. Curves are bounded to a few hundred points whatever the draws.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from narrows.plan.analysis import Plan
from narrows.plan.distribution import Number
from narrows.plan.equations import bytes_of
from narrows.plan.simulate import (
    Forecast,
    as_samples,
    cumulative_tokens,
    evaluate,
    median,
    median_inputs,
    percentiles,
)

FAN_DRAWS = 10_000
FAN_POINTS = 48
CURVE_POINTS = 120
FAN_SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
LEAST_BYTES = 1e-3  # nothing at all has no place on a logarithmic axis
LONGEST_DAYS = 1e6 * 365.25


_DAY_MARKS = (
    (1 / 86_400, "1 s"),
    (1 / 1440, "1 min"),
    (1 / 24, "1 h"),
    (6 / 24, "6 h"),
    (1.0, "1 day"),
    (7.0, "1 week"),
    (30.4375, "1 mo"),
    (91.3125, "3 mo"),
    (365.25, "1 y"),
    (1_095.75, "3 y"),
    (3_652.5, "10 y"),
    (36_525.0, "100 y"),
    (365_250.0, "1000 y"),
    (365_250_000.0, "1M y"),
)


def day_marks(low: float, high: float, most: int) -> list[tuple[float, str]]:
    """Round durations between ``low`` and ``high`` days, with their names: at most ``most`` of
    them, and none nearer to the next than its share of the axis."""
    apart = math.log(high / low) / (most + 1)
    marks: list[tuple[float, str]] = []
    for day, name in _DAY_MARKS:
        near = bool(marks) and math.log(day / marks[-1][0]) < apart
        if low <= day <= high and not near:
            marks.append((day, name))
    return marks


@dataclass(frozen=True, slots=True)
class Fan:
    """``bands``: per share of FAN_SHARES, cumulative bytes at ``days`` that a thief could use
    (what leaves, or what nobody can explain). ``cap``: the most the cap lets pass."""

    days: list[float]
    bands: list[list[float]]
    cap: list[float]
    weights: float
    target: tuple[float, float, float]
    coding: str


def _head(values: Number, result: Forecast, count: int) -> Number:
    return values[:count] if isinstance(values, np.ndarray) and values.ndim else values


def fan(plan: Plan) -> Fan:
    """Cumulative outflow of the deployed coding over the median life, by percentile."""
    result = plan.forecast
    count = min(FAN_DRAWS, result.draws)
    inputs = {path: _head(value, result, count) for path, value in result.inputs.items()}
    life = median(result.inputs["demand.lifetime"])
    grid = np.geomspace(life / 1000, life, FAN_POINTS)
    outcome = result.outcomes[result.deployed]
    bits = _head(outcome.bits, result, count)
    first = _head(result.tokens_first_day, result, count)
    rows = [
        percentiles(
            as_samples(
                bytes_of(cumulative_tokens(inputs, result.scenario, first, day), bits),
                count,
            ),
            FAN_SHARES,
        )
        for day in grid
    ]
    payload = outcome.bits / result.outcomes[result.carrier].bits
    pace = median(outcome.cap * payload)
    low, middle, high = percentiles(result.target)
    return Fan(
        [float(day) for day in grid],
        [[max(size, LEAST_BYTES) for size in band] for band in zip(*rows, strict=True)],
        [max(pace * float(day), LEAST_BYTES) for day in grid],
        median(result.weights),
        (low, middle, high),
        result.deployed,
    )


def exceedance(plan: Plan) -> dict[str, tuple[list[float], list[float]]]:
    """Per coding: days, and the share of futures in which a theft takes longer than that."""
    curves = {}
    shares = tuple((i + 0.5) / CURVE_POINTS for i in range(CURVE_POINTS))
    for coding in plan.forecast.outcomes:
        days = percentiles(plan.forecast.outcomes[coding].days, shares)
        pairs = zip(days, shares, strict=True)
        finite = [(day, 1 - share) for day, share in pairs if 0 < day < LONGEST_DAYS]
        curves[coding] = ([day for day, _ in finite], [share for _, share in finite])
    return curves


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from ``start`` to ``end`` days, with its words."""

    label: str
    start: float
    end: float
    text: str
    deployed: bool = True


def _floor(days: float) -> float:
    """Log axes know no zero: a second, at least; and no eternity."""
    return min(max(days, 1 / 86_400), LONGEST_DAYS) if not math.isnan(days) else LONGEST_DAYS


def waterfall_bars(plan: Plan) -> list[Bar]:
    """From each measure's theft time to the next's; the first bar is the bare line."""
    from narrows.plan import show

    steps = plan.steps
    bars = [
        Bar(
            steps[0].name,
            _floor(steps[0].days),
            _floor(steps[0].days),
            show.days(steps[0].days),
            False,
        )
    ]
    for before, step in itertools.pairwise(steps):
        bars.append(
            Bar(
                step.name,
                _floor(before.days),
                _floor(step.days),
                f"{show.days(step.days)} ({show.factor(step.factor)})",
                step.deployed,
            )
        )
    return bars


@dataclass(frozen=True, slots=True)
class Tornado:
    """``rows``: per driver its label, theft days at its low and at its high value, and those
    values in words. ``center``: theft days with every input at its median."""

    center: float
    rows: list[tuple[str, float, float, str, str]]


def tornado(plan: Plan, most: int = 8) -> Tornado:
    """The drivers that move the theft time at all, the strongest first."""
    from narrows.plan.report.text import input_text

    result = plan.forecast
    middle = evaluate(result.scenario, median_inputs(result.scenario), (result.deployed,))
    rows = [
        (
            driver.label,
            _floor(driver.days_low),
            _floor(driver.days_high),
            input_text(driver.path, driver.low, False),
            input_text(driver.path, driver.high, False),
        )
        for driver in plan.drivers
        if not math.isclose(driver.days_low, driver.days_high, rel_tol=1e-6)
    ]
    return Tornado(_floor(median(middle.outcomes[result.deployed].days)), rows[:most])
