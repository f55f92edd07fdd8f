"""A calibrated null as a file: JSON, checked when it is read."""

from __future__ import annotations

import json
import math

from narrows.alarms.sequential import COST_CAP_BITS, RATES, Null
from narrows.errors import InputError

FORMAT = "narrows alarm null 1"


def to_json(null: Null, segments: int, tokens: int) -> str:
    """``segments`` and ``tokens``: what it was calibrated on, for people."""
    return json.dumps(
        {
            "format": FORMAT,
            "rates": list(null.rates),
            "slacks": list(null.slacks),
            "segments": segments,
            "tokens": tokens,
        }
    )


def from_json(text: str | bytes) -> Null:
    """InputError where it is no such file, or allows what no honest engine needs."""
    try:
        found = json.loads(text)
        rates, slacks = tuple(found["rates"]), tuple(found["slacks"])
        fits = found["format"] == FORMAT and rates == RATES and len(slacks) == len(RATES)
        pairs = zip(rates, slacks, strict=False)
        fits = fits and all(_is_slack(slack, rate * COST_CAP_BITS) for rate, slack in pairs)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError("this is no null of narrows audit calibrate") from error
    if not fits:
        raise InputError("this null is of another version, or out of range")
    return Null(rates, slacks)


def _is_slack(value: object, highest: float) -> bool:
    return isinstance(value, float) and math.isfinite(value) and 0 <= value <= highest
