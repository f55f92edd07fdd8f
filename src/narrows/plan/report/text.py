"""A forecast as plain text on a terminal: the verdict, three tables, the budget."""

from __future__ import annotations

import math
from collections.abc import Callable

from rich.console import Console, JustifyMethod
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from narrows.plan import show
from narrows.plan.analysis import Plan
from narrows.plan.budget import as_toml
from narrows.plan.distribution import Number
from narrows.plan.drivers import Driver
from narrows.plan.fields import DEMAND_KEYS, FIELDS
from narrows.plan.simulate import SENT, Forecast, median, percentiles, theft_probability
from narrows.plan.units import PRICE, SHARE

MAX_DRIVERS = 6
_STYLES = {
    "protected": "bold green",
    "protectable": "bold yellow",
    "uncertain": "bold yellow",
    "unprotectable": "bold red",
}


def input_text(path: str, value: float, named: bool = True) -> str:
    """An input's value as people write it; ``named``: with units that its label also says."""
    dimension = FIELDS[path].dimension
    noun = dimension.noun
    if dimension is SHARE:
        return show.share(value)
    if dimension is PRICE:
        return f"${value * 1e6:.3g}/Mtoken"
    if noun == "days":
        return show.days(value)
    if noun in ("bytes", "bytes/day"):
        return show.size(value) + noun.removeprefix("bytes")
    if noun.startswith(("ratio", "growth")):
        return show.factor(value)
    return show.count(value) + (f" {noun}" if named and noun != "count" else "")


def range_text(values: Number, words: Callable[[float], str]) -> str:
    """``p5 – p95``, or nothing where the values do not spread."""
    low, _, high = percentiles(values)
    if math.isclose(low, high, rel_tol=1e-9) or words(low) == words(high):
        return ""
    return show.between(words(low), words(high))


def spread(values: Number, words: Callable[[float], str]) -> str:
    """``median (p5 – p95)``, or the value alone where nothing spreads."""
    between = range_text(values, words)
    return words(median(values)) + (f" ({between})" if between else "")


def two_lines(values: Number, words: Callable[[float], str]) -> Text:
    """The median, and under it the range."""
    cell = Text(words(median(values)))
    if between := range_text(values, words):
        cell.append(f"\n{between}", style="dim not bold")
    return cell


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for index, column in enumerate(columns):
        justify: JustifyMethod = "left" if index == 0 else "right"
        table.add_column(column, overflow="fold", justify=justify, no_wrap=index > 0)
    return table


def _codings(result: Forecast) -> Table:
    table = _table("coding", "leaves in its life", "÷ weights", "theft takes", "stolen")
    for coding in result.outcomes:
        outcome = result.outcomes[coding]
        name = f"{coding} *" if coding == result.deployed else coding
        table.add_row(
            name,
            two_lines(outcome.outflow, show.size),
            show.factor(median(outcome.outflow / result.weights)),
            two_lines(outcome.days, show.days),
            show.share(theft_probability(result, coding)),
            style="bold" if coding == result.deployed else "",
        )
    return table


def _caps(result: Forecast) -> Table:
    table = _table("cap that serves", "bits/token", "p50 day", "p95 day", "p99 day")
    for coding in SENT:
        outcome = result.outcomes[coding]
        cells = (two_lines(cap, show.size) for cap in outcome.caps.values())
        table.add_row(coding, two_lines(outcome.bits, show.three), *cells)
    return table


def _steps(plan: Plan) -> Table:
    table = _table("measure", "theft takes", "buys", "alone", "")
    for step in plan.steps:
        first = step is plan.steps[0]
        table.add_row(
            step.name if first else f"+ {step.name}",
            show.days(step.days),
            "" if first else show.factor(step.factor),
            "" if first else show.factor(step.alone_factor),
            "deployed" if step.deployed else "",
        )
    return table


def _drivers(drivers: list[Driver]) -> Table:
    ranked = bool(drivers) and drivers[0].rank_correlation is not None
    table = _table("what decides", "share", "5 % – 95 %" if ranked else "halved, doubled", "theft")
    for driver in [one for one in drivers if one.share > 0.001][:MAX_DRIVERS]:
        low, high = (input_text(driver.path, end, False) for end in (driver.low, driver.high))
        table.add_row(
            driver.label,
            show.share(round(driver.share, 2)),
            show.between(low, high),
            f"{show.days(driver.days_low)} → {show.days(driver.days_high)}",
        )
    return table


def _heads(plan: Plan) -> list[str]:
    result = plan.forecast
    fixed = result.scenario.has("defender.cap")
    why = "given" if fixed else f"serves the {result.scenario.choices['defender.serve']} day"
    lines = [
        f"Weights {spread(result.weights, show.size)}; a thief needs "
        f"{spread(result.target, show.size)}. Cap {show.size(median(_cap(result)))}/day ({why})."
    ]
    if plan.break_even is not None:
        served = spread(result.tokens / result.inputs["model.parameters"], show.three)
        even = ", ".join(
            f"{show.three(median(value))} {coding}" for coding, value in plan.break_even.items()
        )
        lines.append(f"Tokens served per parameter {served}; break-even at {even}.")
    return lines


def _audit(plan: Plan) -> Table | None:
    if plan.audit is None:
        return None
    audit = plan.audit
    table = _table(f"an audit of {show.share(audit.share)} leaves", "bits/token")
    for kind, bits in audit.bits.items():
        table.add_row(kind, show.three(bits) + audit.mark)
    table.add_row("in all", show.three(audit.total_bits) + audit.mark, style="bold")
    table.add_row("protected up to", show.three(audit.most_bits))
    table.add_row("in half of the futures up to", show.three(audit.even_bits))
    return table


def _cap(result: Forecast) -> Number:
    return result.outcomes[result.carrier].cap


def render(plan: Plan, console: Console) -> None:
    """Write the report. The first line is the verdict."""
    result = plan.forecast
    console.print(Text(plan.verdict.line, style=_STYLES[plan.verdict.level]))
    console.print()
    title = result.scenario.description or result.scenario.name
    console.print(Text(f"{title}. Median (5 % – 95 %) of {result.draws:,} futures."))
    for line in _heads(plan):
        console.print(Text(line))
    for note in plan.notes:
        console.print(Text(f"· {note}"))
    tables = [_codings(result), _caps(result), _steps(plan), _drivers(plan.drivers)]
    if not result.scenario.given & DEMAND_KEYS:
        del tables[1]  # without a demand there is nothing to serve
    if (audit := _audit(plan)) is not None:
        tables.append(audit)
    for table in tables:
        console.print()
        console.print(Padding(table, (0, 0, 0, 2)))
    console.print()
    console.print(
        Text(
            f"Budget for the ledger (lasts {show.days(plan.budget.lasts_days)} at the median "
            "demand):"
        )
    )
    console.print(Text(as_toml(plan.budget)), end="", soft_wrap=True)
    defaults = sum(1 for path in result.scenario.numbers if path not in result.scenario.given)
    console.print(
        Text(f"\n* deployed. {defaults} inputs are defaults; --json lists all.", style="dim")
    )
