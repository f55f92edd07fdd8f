"""JSON as clients write it and as the edge writes it.

In: strict UTF-8, no NaN, every number finite and at most 64 bits, nesting bounded (an
unchecked 1e999 would travel inward as ``Infinity``, break the enclave's parser, and with it
the link of all clients), no key twice in an object (a proxy before the edge may read the first
where the edge reads the last). Lone surrogate escapes are text and kept.

Out: ASCII with escapes, so that NUL, controls and lone surrogates arrive as what they are;
key order is the edge's own.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from narrows.edge.problems import ApiError, bad_request

MAX_DEPTH = 64
MAX_NODES = 1 << 18
_MAX_INTEGER = 1 << 63


def _bad_json(reason: str) -> ApiError:
    return bad_request(f"The body is not a JSON object: {reason}.", None, "invalid_json")


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


class _TwiceError(Exception):
    """A key that an object has twice."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _TwiceError(Counter(key for key, _ in pairs).most_common(1)[0][0])
    return found


def parse_object(data: bytes) -> dict[str, Any]:
    """The object in ``data``. Raises ``ApiError`` (400)."""
    try:
        parsed = json.loads(
            data.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object
        )
    except UnicodeDecodeError as error:
        raise _bad_json(f"byte {error.start} is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise _bad_json(f"{error.msg} at character {error.pos}") from error
    except _TwiceError as error:
        raise _bad_json(f"an object has the key {ascii(str(error))[:80]} twice") from error
    except (ValueError, RecursionError) as error:
        raise _bad_json("a number or its nesting is out of bounds") from error
    if not isinstance(parsed, dict):
        raise _bad_json(f"it is a {type(parsed).__name__}")
    _check_values(parsed)
    return parsed


def _check_values(root: dict[str, Any]) -> None:
    nodes = 0
    level: list[Any] = [root]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
            elif isinstance(value, float) and not math.isfinite(value):
                raise _bad_json("a number is not finite")
            elif isinstance(value, int) and not -_MAX_INTEGER <= value < 2 * _MAX_INTEGER:
                raise _bad_json("an integer exceeds 64 bits")
        nodes += len(below)
        if nodes > MAX_NODES:
            raise _bad_json(f"it has more than {MAX_NODES} values")
        if not below:
            return
        level = below
    raise _bad_json(f"it is nested deeper than {MAX_DEPTH}")


def dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode("ascii")
