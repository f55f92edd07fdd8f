"""Which inputs decide: rank correlation over the draws, and one input at a time.

*Rank correlation* (Spearman) of an input with the theft time says how far its uncertainty orders
the futures; squared and normalised it is the input's share (exact for a product of independent
lognormal inputs, which this model nearly is). *One at a time* sets an input to its 5th and 95th
percentile with all others at their median: the tornado's bars.

A scenario without ranges has no such drivers; then each given number is halved and doubled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from narrows.plan.distribution import Samples
from narrows.plan.fields import FIELDS
from narrows.plan.scenario import Scenario
from narrows.plan.simulate import Forecast, as_samples, evaluate, median_inputs

RANK_DRAWS = 20_000


@dataclass(frozen=True, slots=True)
class Driver:
    """``low``, ``high``: the input's values; ``days_low``, ``days_high``: theft time at them,
    all else at the median. ``rank_correlation`` with theft time and ``margin_correlation`` with
    payload reached ÷ target, -1..1; None where nothing is uncertain. ``share``: 0..1."""

    path: str
    label: str
    low: float
    high: float
    days_low: float
    days_high: float
    rank_correlation: float | None
    margin_correlation: float | None
    share: float


def ranks(values: Samples) -> Samples:
    """Ranks 0..n-1 with ties averaged, as Spearman's coefficient needs."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    lengths = np.diff(np.append(starts, values.size))
    result = np.empty(values.size)
    result[order] = np.repeat(starts + (lengths - 1) / 2, lengths)
    return result


def spearman(a: Samples, b: Samples) -> float:
    """Rank correlation, -1..1; 0 where either side is constant."""
    return _correlation(ranks(a), ranks(b))


def _correlation(x: Samples, y: Samples) -> float:
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / scale if scale > 0 else 0.0


def _days_at(scenario: Scenario, path: str, values: tuple[float, float]) -> tuple[float, float]:
    """Theft time of the deployed coding with one input set, all others at their median."""
    medians = median_inputs(scenario)
    low, high = (
        float(np.asarray(result.outcomes[result.deployed].days))
        for result in (
            evaluate(scenario, {**medians, path: value}, (scenario.deployed,)) for value in values
        )
    )
    return low, high


def find(result: Forecast) -> list[Driver]:
    """Drivers of the theft time of the deployed coding, the strongest first."""
    uncertain = [path for path, dist in result.scenario.numbers.items() if not dist.fixed]
    found = _with_shares(_ranked(result, uncertain))
    if any(driver.share > 0 for driver in found):
        return found
    return _with_shares(_halved_and_doubled(result.scenario))


def _ranked(result: Forecast, paths: list[str]) -> list[Driver]:
    scenario = result.scenario
    count = min(result.draws, RANK_DRAWS)
    outcome = result.outcomes[result.deployed]
    days = ranks(as_samples(outcome.days, result.draws)[:count])
    margin = ranks(as_samples(outcome.reach / result.target, result.draws)[:count])
    found = []
    for path in paths:
        dist = scenario.numbers[path]
        ends = (dist.p5, dist.p95)
        drawn = ranks(as_samples(result.inputs[path], result.draws)[:count])
        ranked = (_correlation(drawn, days), _correlation(drawn, margin))
        at_ends = _days_at(scenario, path, ends)
        found.append(Driver(path, FIELDS[path].label, *ends, *at_ends, *ranked, 0.0))
    return found


def _halved_and_doubled(scenario: Scenario) -> list[Driver]:
    """Drivers of a scenario in which no range touches the theft time."""
    found = []
    for path in sorted(scenario.given & FIELDS.keys()):
        field, middle = FIELDS[path], scenario.numbers[path].median
        ends = (max(middle / 2, field.lower), min(middle * 2, field.upper))
        at_ends = _days_at(scenario, path, ends)
        found.append(Driver(path, field.label, *ends, *at_ends, None, None, 0.0))
    return found


def _swing(driver: Driver) -> float:
    low, high = driver.days_low, driver.days_high
    if low <= 0 or high <= 0 or not np.isfinite(low + high):
        return 0.0
    return abs(float(np.log(high / low)))


def _with_shares(found: list[Driver]) -> list[Driver]:
    weights = [
        driver.rank_correlation**2 if driver.rank_correlation is not None else _swing(driver) ** 2
        for driver in found
    ]
    total = sum(weights) or 1.0
    shared = [
        replace(driver, share=weight / total) for driver, weight in zip(found, weights, strict=True)
    ]
    return sorted(shared, key=lambda driver: (-driver.share, driver.path))
