"""What a request may carry, and what is refused with a 400 before it reaches the engine.

    "vllm_xargs": {"narrows_key": 64 hex digits, "narrows_position": tokens of the answer so far}

Temperature, top_p, top_k and min_p are the request's own; both fields beside them are taken
whole or refused. A step must not fail over a field, since that would end the engine for all.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from narrows_vllm.noise import MAX_POSITION
from narrows_vllm.pick import Shape

KEY = "narrows_key"
POSITION = "narrows_position"
_PREFIX = "narrows_"
_HEX = frozenset(string.hexdigits)
GREEDY = 1e-5
"""vLLM takes any temperature below for greedy."""


@dataclass(frozen=True)
class Coupling:
    """What a request asked for. ``start``: the position of its first token."""

    key: bytes
    start: int
    shape: Shape


def coupling(params: Any) -> Coupling | None:
    """What sampling parameters ask for; None where they ask for nothing of ours. ValueError with
    words for the client: a field is wrong, or the request cannot be coupled."""
    args = getattr(params, "extra_args", None)
    if not isinstance(args, Mapping):
        return None
    ours = {name for name in args if isinstance(name, str) and name.startswith(_PREFIX)}
    if not ours:
        return None
    if unknown := sorted(ours - {KEY, POSITION}):
        raise ValueError(f"{unknown[0][:80]!r} is no field of this version of narrows-vllm")
    key, start = args.get(KEY), args.get(POSITION, 0)
    if not isinstance(key, str) or len(key) != 64 or not _HEX.issuperset(key):
        raise ValueError(f"{KEY} must be a string of 64 hex digits")
    if type(start) is not int or not 0 <= start < MAX_POSITION:
        raise ValueError(f"{POSITION} must be a whole number from 0 to {MAX_POSITION - 1}")
    return Coupling(bytes.fromhex(key), start, _shape(params))


def _shape(params: Any) -> Shape:
    n = getattr(params, "n", 1)
    if n != 1:
        raise ValueError(f"{KEY} needs n = 1: two answers would draw the same tokens")
    temperature = _number(params, "temperature", 1.0)
    if not GREEDY <= temperature <= 1e6:
        raise ValueError(f"{KEY} needs a temperature above 0: a greedy answer draws nothing")
    top_p = _number(params, "top_p", 1.0)
    min_p = _number(params, "min_p", 0.0)
    top_k = getattr(params, "top_k", 0)
    if not 0 < top_p <= 1 or not 0 <= min_p <= 1 or type(top_k) is not int:
        raise ValueError(f"{KEY} needs top_p in (0, 1], min_p in [0, 1] and a whole top_k")
    return Shape(temperature, top_p, max(0, top_k), min_p)


def _number(params: Any, name: str, default: float) -> float:
    value = getattr(params, name, default)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= 1e9:
        raise ValueError(f"{KEY} needs {name} to be a number")
    return float(value)
