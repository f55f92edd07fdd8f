"""Several scenarios side by side, and one scenario over a grid of inputs.

All share the seed, and every input draws from its own stream, so what differs between two
columns is the difference of the scenarios and not of their luck.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from narrows.errors import InputError
from narrows.plan import show
from narrows.plan.analysis import Plan
from narrows.plan.report.text import spread
from narrows.plan.scenario import Scenario
from narrows.plan.simulate import (
    SENT,
    Forecast,
    median,
    percentiles,
    simulate,
    theft_probability,
)
from narrows.plan.units import UnitError, unit_of

MAX_POINTS = 400


@dataclass(frozen=True, slots=True)
class Point:
    """One point of a sweep: the settings that differ, and the forecast there."""

    settings: dict[str, str]
    forecast: Forecast


def _steps(text: str) -> tuple[str, int]:
    """``a..b:n`` without its count; 5 points where none is given."""
    body, colon, number = text.rpartition(":")
    if not colon:
        return text, 5
    if re.fullmatch(r" *[0-9]{1,6} *", number) is None or not 2 <= int(number) <= MAX_POINTS:
        raise UnitError(f"the number of steps after ':' is 2 to {MAX_POINTS}")
    return body, int(number)


def sweep_values(text: str) -> list[str]:
    """Values of ``a,b,c`` or of ``a..b:n``, n points in equal ratios. Raises UnitError.

    >>> sweep_values("1..100 GB/day:3")
    ['1 GB/day', '10 GB/day', '100 GB/day']
    """
    if ".." not in text:
        values = [value.strip() for value in text.split(",") if value.strip()]
        if not values:
            raise UnitError("a sweep needs values: cap=1GB/day,10GB/day or cap=1..100 GB/day:5")
        return values
    body, count = _steps(text)
    low_text, _, high_text = body.partition("..")
    unit = unit_of(high_text)
    low, high = _leading(low_text), _leading(high_text)
    own = unit_of(low_text).strip()
    if own and own != unit.strip():
        raise UnitError("both ends of a sweep need the same unit; or list values with commas")
    if low <= 0 or high <= 0:
        raise UnitError("a sweep in equal ratios needs ends above 0; list values with commas")
    ratio = math.log(high / low) / (count - 1)
    return [f"{low * math.exp(ratio * i):.6g}{unit}" for i in range(count)]


def _leading(text: str) -> float:
    body = text.strip()
    number = body[: len(body) - len(unit_of(body))].strip().replace("_", "")
    try:
        value = float(number)
    except ValueError:
        raise UnitError(f"{text.strip()!r} does not begin with a number") from None
    if not math.isfinite(value):
        raise UnitError("numbers must be finite")
    return value


def sweep(
    make: Callable[[Mapping[str, str]], Scenario],
    over: Sequence[str],
    draws: int,
    seed: int,
) -> list[Point]:
    """Forecasts at every combination of ``KEY=VALUES``. ``make``: overrides to scenario."""
    axes: list[list[tuple[str, str]]] = []
    problems = []
    for item in over:
        key, equals, values = item.partition("=")
        try:
            if not equals:
                raise UnitError("write KEY=VALUES, as in cap=1GB/day,10GB/day")
            axes.append([(key.strip(), value) for value in sweep_values(values)])
        except UnitError as error:
            problems.append(f"--over {item}: {error}")
    if problems:
        raise InputError("the sweep cannot be read", problems=tuple(problems))
    if math.prod(len(axis) for axis in axes) > MAX_POINTS:
        raise InputError(f"a sweep has at most {MAX_POINTS} points", "take fewer values")
    scenarios = [(dict(combo), make(dict(combo))) for combo in itertools.product(*axes)]
    return [Point(settings, simulate(one, draws, seed)) for settings, one in scenarios]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def point_json(point: Point) -> dict[str, object]:
    """One row of ``narrows plan sweep --json``."""
    result = point.forecast
    carrier = result.outcomes[result.carrier]
    names = ("p5", "p50", "p95")
    return {
        "settings": point.settings,
        "weights_bytes": median(result.weights),
        "cap_bytes_per_day": median(carrier.cap),
        "served_share": median(carrier.served),
        "lifetime_outflow_bytes": {
            coding: dict(zip(names, percentiles(result.outcomes[coding].outflow), strict=True))
            for coding in result.outcomes
        },
        "days_to_exfiltrate": {
            coding: {
                name: _number(value)
                for name, value in zip(
                    names, percentiles(result.outcomes[coding].days), strict=True
                )
            }
            for coding in result.outcomes
        },
        "theft_probability": {c: theft_probability(result, c) for c in result.outcomes},
    }


def render_sweep(points: Sequence[Point], console: Console) -> None:
    keys = list(points[0].settings)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    swept_cap = any(key.rpartition(".")[2] == "cap" for key in keys)
    audited = points[0].forecast.scenario.audit  # one column of the two: 80 characters are full
    codings = (*SENT, "audited" if audited else "verified")
    for name in (*keys, *(() if swept_cap else ("cap a day",)), "served", *codings, "stolen"):
        own = name in keys
        header = name.rpartition(".")[2].replace("_", " ")
        table.add_column(header, justify="left" if own else "right", no_wrap=not own)
    for point in points:
        result = point.forecast
        carrier = result.outcomes[result.carrier]
        table.add_row(
            *(Text(point.settings[key]) for key in keys),
            *(() if swept_cap else (show.size(median(carrier.cap)),)),
            show.share(median(carrier.served)),
            *(show.days(median(result.outcomes[coding].days)) for coding in codings),
            show.share(theft_probability(result, result.deployed)),
        )
    console.print("Median theft time per coding; stolen: within the life, as deployed.\n")
    console.print(table)


def render_compare(plans: Sequence[Plan], console: Console) -> None:
    """One column per scenario."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("")
    for plan in plans:
        table.add_column(Text(plan.forecast.scenario.name), overflow="fold")
    results = [plan.forecast for plan in plans]
    table.add_row("verdict", *(plan.verdict.level for plan in plans))
    table.add_row("deployed", *(result.deployed for result in results))
    table.add_row("weights", *(spread(r.weights, show.size) for r in results))
    table.add_row("thief needs", *(spread(r.target, show.size) for r in results))
    table.add_row("cap a day", *(show.size(median(r.outcomes[r.carrier].cap)) for r in results))
    for coding in dict.fromkeys(name for r in results for name in r.outcomes):
        table.add_section()
        cells = zip(*(_cells(result, coding) for result in results), strict=True)
        for name, row in zip(("leaves", "theft", "stolen"), cells, strict=True):
            table.add_row(f"{coding}: {name}", *row)
    table.add_section()
    table.add_row("what decides", *(_first_driver(plan) for plan in plans))
    table.add_row("lifetime budget", *(show.size(plan.budget.lifetime_bytes) for plan in plans))
    console.print(table)


def _cells(result: Forecast, coding: str) -> tuple[str, str, str]:
    outcome = result.outcomes.get(coding)
    if outcome is None:
        return ("–", "–", "–")
    return (
        spread(outcome.outflow, show.size),
        spread(outcome.days, show.days),
        show.share(theft_probability(result, coding)),
    )


def _first_driver(plan: Plan) -> str:
    if not plan.drivers:
        return ""
    return f"{plan.drivers[0].label} ({show.share(plan.drivers[0].share)})"
