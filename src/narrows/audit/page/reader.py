"""A report of an audit read back: bounded, and every field of the kind that it has to be.

It may have come from anywhere, and its prompts are an attacker's in any case.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from narrows.durable import read_once
from narrows.errors import InputError

MAX_REPORT_BYTES = 1 << 20
MAX_TEXT, MAX_PROMPT = 200, 1000
MAX_ENTRIES, MAX_POINTS, MAX_CHARGES = 128, 1024, 256
MAX_NUMBER = 1e18
_Test = Callable[[Any], bool]


def number(value: object, low: float = 0.0, high: float = MAX_NUMBER) -> bool:
    """A finite number, ``low`` to ``high``; whole numbers of any length are compared exactly."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return low <= value <= high  # no number is not


def _text(most: int) -> _Test:
    return lambda value: isinstance(value, str) and len(value) <= most


def _or_none(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


def _table(value: object) -> bool:
    return (
        isinstance(value, dict)
        and len(value) <= MAX_ENTRIES
        and all(len(key) <= MAX_TEXT and number(found) for key, found in value.items())
    )


def _list(most: int, test: _Test) -> _Test:
    return lambda value: isinstance(value, list) and len(value) <= most and all(map(test, value))


def _worst(value: object) -> bool:
    return isinstance(value, dict) and all(test(value.get(key)) for key, test in _WORST.items())


def _row(length: int) -> _Test:
    return lambda row: isinstance(row, list) and len(row) == length and all(map(number, row))


def _bin(row: object) -> bool:
    return (
        isinstance(row, list)
        and len(row) == 2
        and (row[0] is None or number(row[0]))
        and number(row[1])
    )


_WORST: dict[str, _Test] = {
    "bits_per_token": number,
    "tokens": number,
    "link": number,
    "answer": number,
    "segment": number,
    "prompt": _text(MAX_PROMPT),
}
_FIELDS: dict[str, _Test] = {
    "state": _text(MAX_TEXT),
    "scorer": _text(MAX_TEXT),
    "share": lambda value: number(value, math.ulp(0.0), 1.0),
    "segments": number,
    "drawn": number,
    "tokens": number,
    "off_argmax": lambda value: number(value, 0.0, 1.0),
    "unexplained_bits": number,
    "unexplained_bits_upper_95": _or_none(number),
    "raw_bits": number,
    "bits_by_kind": _table,
    "credit_bytes": number,
    "net_over_raw": _or_none(lambda value: number(value, -1.0)),
    "bound_bits": number,
    "not_scored": _table,
    "link_faults": _table,
    "tape_pending_bytes": number,
    "alarm": lambda value: isinstance(value, bool),
    "evidence_bits": lambda value: number(value, -MAX_NUMBER),
    "by_position": lambda value: _table(value) and all(key.isdecimal() for key in value),
    "worst": _list(MAX_ENTRIES, _worst),
}
_MAY_MISS: dict[str, _Test] = {  # a benchmark has more than a run, an older report less
    "histogram": _list(MAX_ENTRIES, _bin),
    "over_time": _list(MAX_POINTS, _row(3)),
    "model": lambda value: (
        isinstance(value, dict)
        and _or_none(number)(value.get("parameters"))
        and value.get("kind") in ("dense", "experts", "unknown")
    ),
    "engine": _text(MAX_TEXT),
    "segment_bits": number,
}


def read_report(path: Path) -> dict[str, Any]:
    """The report of ``narrows audit run --out`` or ``narrows bench audit --json``. InputError:
    it cannot be read, is none, or holds what a report does not; says which field."""
    try:
        found = json.loads(read_once(path, MAX_REPORT_BYTES, follow_links=True).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no report of narrows audit run: it is no JSON") from error
    wrong = _wrong(found)
    if wrong is not None:
        raise InputError(
            f"{path} is no report of narrows audit run: {wrong}",
            "write it with 'narrows audit run --out' or 'narrows bench audit --json'",
        )
    return dict(found)


def _wrong(found: object) -> str | None:
    if not isinstance(found, dict):
        return "it is no JSON object"
    for key, test in _FIELDS.items():
        if key not in found:
            return f"{key} is missing"
        if not test(found[key]):
            return f"{key} is none that an audit writes"
    for key, test in _MAY_MISS.items():
        if key in found and not test(found[key]):
            return f"{key} is none that an audit writes"
    for one in found["worst"]:
        if not _list(MAX_CHARGES, number)(one.get("charges", [])):
            return "worst.charges is none that an audit writes"
    return None
