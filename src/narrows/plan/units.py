"""Numbers with units: ``"1.2 TB/day"``, ``"671B"``, ``"16.98 bits/token"``, ``"$15/Mtoken"``.

A quantity is read *for* a dimension, because ``B`` is a byte after a size and a billion after
a count. Everything becomes a float in the dimension's base unit:

    bytes, tokens, parameters, dollars, days, bits per token, shares in 0..1

Decimal prefixes are powers of 1000, ``Ki Mi Gi Ti Pi`` powers of 1024; a month is 30.4375 days
and a year 365.25 days. The grammar is strict: what it does not know it refuses, with an
example of what would be right.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_TEXT = 120
MAX_MAGNITUDE = 1e30
MONTH_DAYS = 30.4375
YEAR_DAYS = 365.25

_NUMBER = re.compile(r"\s*([+-]?(?:\d[\d_]*)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?)\s*(.*?)\s*")
_PER = re.compile(r"\s*/\s*|\s+per\s+")
_BITS = re.compile(r"([kKMGTPE]i?|)b", re.IGNORECASE)
_BPS = re.compile(r"\b([kKMGT]?)bps\b")

Table = dict[str, float]

_COUNTS: Table = {
    "": 1.0,
    "k": 1e3,
    "K": 1e3,
    "thousand": 1e3,
    "M": 1e6,
    "million": 1e6,
    "G": 1e9,
    "B": 1e9,
    "bn": 1e9,
    "billion": 1e9,
    "T": 1e12,
    "trillion": 1e12,
    "P": 1e15,
}
_DECIMAL: Table = {
    "": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
}  # fmt: skip
_BINARY: Table = {f"{p}i": 1024.0 ** (i + 1) for i, p in enumerate("KMGTPE")}
_TIME: Table = {
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1 / 86_400),
    **dict.fromkeys(("min", "minute", "minutes"), 1 / 1_440),
    **dict.fromkeys(("h", "hour", "hours"), 1 / 24),
    **dict.fromkeys(("d", "day", "days"), 1.0),
    **dict.fromkeys(("week", "weeks"), 7.0),
    **dict.fromkeys(("month", "months"), MONTH_DAYS),
    **dict.fromkeys(("y", "year", "years"), YEAR_DAYS),
}


class UnitError(ValueError):
    """The text is no quantity of the wanted dimension; the message says what would be."""


def _data(byte: float) -> Table:
    """Sizes, in units where one byte counts ``byte``."""
    table: Table = {}
    for prefix, factor in (_DECIMAL | _BINARY).items():
        for noun in ("B", "byte", "bytes"):
            table[prefix + noun] = factor * byte
        for noun in ("bit", "bits"):
            table[prefix + noun] = factor * byte / 8
    return table


def _count(nouns: Iterable[str], bare: bool = True) -> Table:
    table: Table = {}
    for prefix, factor in _COUNTS.items():
        if bare:
            table[prefix] = factor
        for noun in nouns:
            table[prefix + noun] = factor
            table[f"{prefix} {noun}".strip()] = factor
    return table


_TOKEN_NOUNS = ("token", "tokens", "tok")
_TOKENS = _count(_TOKEN_NOUNS)
_DOLLARS = _count(("$", "USD", "dollar", "dollars"), bare=False)


@dataclass(frozen=True)
class Dimension:
    """``top``: unit above the line to factor; ``bottom``: the same below it, if there is a line.
    ``bare``: the field's name says the unit, so a number may stand without it, or without the
    part below the line.
    """

    noun: str
    example: str
    top: Table
    bottom: Table | None = None
    bare: bool = False


BYTES = Dimension("bytes", "810 GB", _data(1.0))
BYTES_PER_DAY = Dimension("bytes/day", "1.2 TB/day", _data(1.0), _TIME)
PARAMETERS = Dimension(
    "parameters", "671B", _count(("parameter", "parameters", "params")), bare=True
)
TOKENS = Dimension("tokens", "15.6T", _TOKENS, bare=True)
TOKENS_PER_DAY = Dimension("tokens/day", "168B tokens/day", _TOKENS, _TIME, bare=True)
BITS_PER_TOKEN = Dimension(
    "bits/token", "16.98 bits/token", _data(8.0), dict.fromkeys(_TOKEN_NOUNS, 1.0)
)
BYTES_PER_PARAMETER = Dimension(
    "bytes/parameter",
    "2 bytes",
    _data(1.0),
    {"parameter": 1.0, "param": 1.0},
    bare=True,
)
SHARE = Dimension("share", "30%", {"%": 0.01}, bare=True)
RATIO = Dimension("ratio", "16x", {"x": 1.0, "×": 1.0}, bare=True)
COUNT = Dimension("count", "10k", _count(("users", "accounts", "people")), bare=True)
REQUESTS_PER_DAY = Dimension(
    "requests/day",
    "10M/day",
    _count(("requests", "request", "conversations", "messages", "lines")),
    _TIME,
    bare=True,
)
DURATION = Dimension("days", "2 years", _TIME)
MONEY_PER_DAY = Dimension("dollars/day", "$300M/year", _DOLLARS, _TIME)
PRICE = Dimension("dollars/token", "$15/Mtoken", _DOLLARS, _count(_TOKEN_NOUNS, bare=False))
GROWTH = Dimension("growth/year", "3x/year", {"x": 1.0, "×": 1.0, "%": 0.01}, _TIME)


def _split(text: str, example: str) -> tuple[float, str]:
    """Number and unit. The number is finite; a sign is kept for the bounds check to refuse."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise UnitError(f"{text.strip()!r} does not begin with a number; write it as {example!r}")
    try:
        value = float(match.group(1).replace("_", ""))
    except ValueError:
        raise UnitError(f"{match.group(1)!r} is not a number") from None
    return value, " ".join(match.group(2).split())


def _bounded(value: float) -> float:
    if not math.isfinite(value) or abs(value) > MAX_MAGNITUDE:
        raise UnitError(f"write a finite number below {MAX_MAGNITUDE:.0e}")
    return value


def _factor(unit: str, table: Table, dimension: Dimension) -> float:
    if unit in table:
        return table[unit]
    if "," in unit or "'" in unit:
        raise UnitError("write numbers without thousands separators, or with '_'")
    near = _nearest(unit, table)
    hint = f"; perhaps {near}" if near else ""
    shown = f"unit {unit!r}" if unit else "a missing unit"
    raise UnitError(f"{shown} does not fit {dimension.noun}, as in {dimension.example!r}{hint}")


def _nearest(unit: str, table: Table) -> str:
    """What ``unit`` may have meant; empty where nothing is near. A small ``b`` is a bit, eight
    times less than a byte: it is never taken for one."""
    small = _BITS.fullmatch(unit)
    if small is None or "bit" not in table:
        return next((repr(known) for known in table if known.lower() == unit.lower() != ""), "")
    prefix = next((p for p in (_DECIMAL | _BINARY) if p.lower() == small[1].lower()), "")
    bits, bytes_ = f"{prefix}bit", f"{prefix}B"
    by_case = unit.islower() and prefix.lower() != prefix  # who writes "gb" minds no capitals
    return f"{bytes_!r} (bytes) or {bits!r} (bits)" if by_case else repr(bits)


def _growth(value: float, unit: str, days: float) -> float:
    """Yearly factor of a growth such as 3x/year or 10%/month, compounded."""
    step = 1.0 + value / 100 if unit == "%" else value
    if step <= 0.0:
        raise UnitError("growth must keep demand above zero")
    exponent = YEAR_DAYS / days
    if abs(math.log(step)) * exponent > 20:
        raise UnitError("growth is beyond e^20 a year")
    return float(step**exponent)


def parse(text: str, dimension: Dimension) -> float:
    """``text`` in base units of ``dimension``. Raises UnitError; never anything else."""
    if len(text) > MAX_TEXT:
        raise UnitError(f"a quantity has at most {MAX_TEXT} characters")
    text = _BPS.sub(r"\1bit/s", text)
    head, *below = _PER.split(text.strip())
    if dimension.top is _DOLLARS and head.startswith("$"):
        head = head[1:] + " $"
    value, unit = _split(head, dimension.example)
    _bounded(value)
    if dimension.bare and not unit and not below:
        return value
    if dimension.bottom is None and below:
        raise UnitError(f"{dimension.noun} take no '/', as in {dimension.example!r}")
    factor = _factor(unit, dimension.top, dimension)
    if dimension.bottom is None or (dimension.bare and not below):
        return _bounded(value * factor)
    if len(below) != 1:
        raise UnitError(f"{dimension.noun} need one '/', as in {dimension.example!r}")
    lower, lower_unit = 1.0, below[0].strip()
    if below[0][:1].isascii() and below[0][:1].isdigit():
        lower, lower_unit = _split(below[0], dimension.example)
    divisor = _bounded(lower) * _factor(lower_unit, dimension.bottom, dimension)
    if divisor <= 0.0:
        raise UnitError("the part below the '/' must be above zero")
    if dimension is GROWTH:
        return _growth(value, unit, divisor)
    return _bounded(value * factor / divisor)


def unit_of(text: str) -> str:
    """What follows the number: " TB/day" of "1.2 TB/day", for a range that names it once."""
    match = re.match(r"\s*\$?[+-]?[\d_.]+(?:[eE][+-]?\d+)?", text)
    return text[match.end() :].rstrip() if match else ""
