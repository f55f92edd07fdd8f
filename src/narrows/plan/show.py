"""Numbers in words: bytes, days, tokens and shares, three digits and a unit people read."""

from __future__ import annotations

import math

from narrows.plan.units import MONTH_DAYS, YEAR_DAYS

_SI = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def three(value: float) -> str:
    """Three significant digits without an exponent or trailing zeros."""
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    rounded = round(value, digits)
    text = f"{rounded:,.{min(digits, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def size(value: float) -> str:
    """Bytes, decimal prefixes."""
    if not math.isfinite(value):
        return "unlimited"
    for factor, prefix in _SI:
        if abs(value) >= factor * 0.9995:
            return f"{three(value / factor)} {prefix}B"
    return f"{three(value)} B"


def count(value: float) -> str:
    """Tokens, parameters: k, M, B, T."""
    for factor, prefix in _SI:
        if abs(value) >= factor * 0.9995:
            return f"{three(value / factor)}{'B' if prefix == 'G' else prefix}"
    return three(value)


def days(value: float) -> str:
    """A duration in days, in the unit that keeps it readable."""
    if not math.isfinite(value):
        return "never"
    if value >= 1e6 * YEAR_DAYS:
        return "over a million years"
    if value == YEAR_DAYS:
        return "1 year"
    for unit, least, length in (
        ("years", 2 * YEAR_DAYS, YEAR_DAYS),
        ("months", 4 * MONTH_DAYS, MONTH_DAYS),
        ("days", 1.0, 1.0),
    ):
        if value >= least:
            return f"{three(value / length)} {unit if value != length else unit[:-1]}"
    for unit, length in (("h", 1 / 24), ("min", 1 / 1440)):
        if value >= length:
            return f"{three(value / length)} {unit}"
    return f"{three(value * 86_400)} s"


def factor(value: float) -> str:
    return f"{three(value)}×" if math.isfinite(value) else "∞"


def share(value: float) -> str:
    """A share 0..1 in percent; tiny and nearly full ones are not rounded to 0 and 100."""
    if 0 < value < 0.001:
        return "under 0.1 %"
    if 0.999 < value < 1:
        return "over 99.9 %"
    return f"{three(value * 100)} %"


def between(low: str, high: str) -> str:
    """``14.6 – 269 GB``: two texts, their unit once where it is the same."""
    number, space, unit = low.partition(" ")
    same = bool(space) and high.partition(" ")[2] == unit
    return f"{number if same else low} – {high}"
