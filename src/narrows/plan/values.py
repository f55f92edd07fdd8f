"""One value of a scenario as written: a number, a quantity, a range ``a..b`` or a table.

    671e9                                        a bare number, where the field names its unit
    "16.98 bits/token"                           a quantity
    "1..3 bits/token"   "0.5%..6%"               5th to 95th percentile, lognormal
    { p5 = "1 GB/day", p95 = "9 GB/day", distribution = "uniform" }

Raises ``UnitError`` with a sentence that says what would be right; callers add where.
"""

from __future__ import annotations

import math
import re

from narrows.plan.distribution import KINDS, Distribution
from narrows.plan.fields import Field
from narrows.plan.units import SHARE, UnitError, parse, unit_of

_RANGE = re.compile(r"(?<!\.)\.\.(?!\.)")
_PLAIN = re.compile(r"\s*[+-]?[\d_.]+(?:[eE][+-]?\d+)?\s*")


def show(field: Field, value: float) -> str:
    """A bound or value of a field, for messages."""
    if field.dimension is SHARE:
        return f"{value * 100:g} %"
    return f"{value:g} {field.dimension.noun}".removesuffix(" ratio").removesuffix(" count")


def _check_bounds(field: Field, value: float) -> None:
    if not math.isfinite(value):
        raise UnitError("must be a finite number")
    if value < 0:
        raise UnitError(f"must not be negative; write it as {field.dimension.example!r}")
    if value > field.upper:
        hint = "; write '50%' or 0.5" if field.dimension is SHARE else ""
        raise UnitError(f"{show(field, value)} is over {show(field, field.upper)}{hint}")
    if value < field.lower or (field.above and value == field.lower):
        word = "above" if field.above else "at least"
        raise UnitError(f"{show(field, value)} is too small: {word} {show(field, field.lower)}")


def _scalar(raw: object, field: Field) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float | str):
        raise UnitError(f"expected a number or text such as {field.dimension.example!r}")
    if isinstance(raw, str):
        return parse(raw, field.dimension)
    if not field.dimension.bare:
        raise UnitError(f"needs a unit, as in {field.dimension.example!r}")
    try:
        return float(raw)
    except OverflowError:
        raise UnitError("must be a finite number") from None


def _ends(text: str, field: Field) -> tuple[float, float]:
    """Both ends of ``a..b``; a unit, or its part below the line, may stand at the end only."""
    parts = _RANGE.split(text)
    if len(parts) != 2:
        raise UnitError("a range is written 'a..b', once")
    low, high = parts
    if low.strip().startswith("$") and not high.strip().startswith("$"):
        high = "$" + high.strip()
    unit = unit_of(high)
    if _PLAIN.fullmatch(low) and unit:
        low += unit
    elif "/" in unit and "/" not in low:
        low += unit[unit.index("/") :]
    return parse(low, field.dimension), parse(high, field.dimension)


def _made(p5: float, p95: float, kind: str, field: Field) -> Distribution:
    for end in (p5, p95):
        _check_bounds(field, end)
    if p5 > p95:
        raise UnitError("the 5th percentile is above the 95th; swap them")
    if p5 < p95 and kind in ("lognormal", "loguniform") and p5 <= 0.0:
        raise UnitError(f"a {kind} range cannot begin at 0; use distribution = 'uniform'")
    # A draw never reaches an excluded bound, which would divide by zero.
    lower = max(field.lower, p5 * 1e-6) if field.above else field.lower
    return Distribution(p5, p95, kind, lower, field.upper)


def _table(raw: dict[str, object], field: Field) -> Distribution:
    unknown = sorted(set(raw) - {"p5", "p95", "distribution"})
    if unknown or not {"p5", "p95"} <= set(raw):
        extra = f"; {unknown[0]!r} is unknown" if unknown else ""
        raise UnitError(f"a distribution has p5, p95 and, if not lognormal, distribution{extra}")
    kind = raw.get("distribution", "lognormal")
    if kind not in KINDS:
        raise UnitError(f"distribution must be one of {', '.join(KINDS)}")
    return _made(_scalar(raw["p5"], field), _scalar(raw["p95"], field), str(kind), field)


def read_value(raw: object, field: Field) -> Distribution:
    """What a scenario wrote for ``field``. Raises UnitError."""
    if isinstance(raw, dict):
        return _table(raw, field)
    if isinstance(raw, str) and _RANGE.search(raw):
        return _made(*_ends(raw, field), "lognormal", field)
    value = _scalar(raw, field)
    return _made(value, value, "lognormal", field)
