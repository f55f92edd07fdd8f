"""One canonical form for every document of the ledger: leaves, changes, snapshots.

Canonical JSON: ASCII, keys sorted, no blanks, integers only. ``decode`` bounds the length
before it parses, encodes what it parsed again and compares, so that one document has exactly
one spelling: duplicate keys, blanks, ``1.0``, ``1e3``, ``-0`` and escaped letters all fail.

``Fields`` then takes a document apart: each field is asked for with its type and range, and
``done`` refuses what nobody asked for.
"""

from __future__ import annotations

import json
import re
from typing import Any

from narrows.errors import BudgetError

MAX_DOCUMENT_BYTES = 1 << 16
MAX_INTEGER = (1 << 63) - 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")

Document = dict[str, Any]


class MalformedError(BudgetError):
    """A document is not in canonical form, or a field is missing, unknown or out of range."""


def encode(document: object) -> bytes:
    """The only spelling of ``document``; made of dict, list, str, int, bool and None."""
    return json.dumps(
        document, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    ).encode("ascii")


def decode(data: bytes, max_bytes: int = MAX_DOCUMENT_BYTES) -> Document:
    """Parse a canonical JSON object of at most ``max_bytes``. Errors: ``MalformedError``."""
    if len(data) > max_bytes:
        raise MalformedError(f"a document of {len(data)} bytes; at most {max_bytes} are allowed")
    try:
        document = json.loads(data.decode("ascii"), parse_float=_no, parse_constant=_no)
        again = encode(document)
    except (ValueError, RecursionError) as error:
        raise MalformedError(f"a document is not JSON: {error}") from error
    if not isinstance(document, dict) or again != data:
        raise MalformedError("a document is not in canonical form")
    return document


def _no(number: str) -> None:
    raise ValueError(f"{number[:20]} is not an integer")


def is_name(text: str) -> bool:
    """Whether ``text`` may name a lineage, an account or a gate."""
    return _NAME.fullmatch(text) is not None


class Fields:
    """Take fields out of a document, each with its type and range."""

    def __init__(self, document: object, what: str) -> None:
        if not isinstance(document, dict):
            raise MalformedError(f"{what} is not an object")
        self._left: Document = dict(document)
        self._what = what

    def bad(self, name: str) -> MalformedError:
        return MalformedError(f"{self._what}: {name!r} is missing or out of range")

    def take(self, name: str) -> Any:
        if name not in self._left:
            raise self.bad(name)
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Whether the field is there and not taken yet."""
        return name in self._left

    def integer(self, name: str, low: int = 0, high: int = MAX_INTEGER) -> int:
        value = self.take(name)
        if type(value) is not int or not low <= value <= high:
            raise self.bad(name)
        return value

    def name(self, name: str) -> str:
        value = self.take(name)
        if not isinstance(value, str) or not is_name(value):
            raise self.bad(name)
        return value

    def text(self, name: str, max_chars: int = 256) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > max_chars:
            raise self.bad(name)
        return value

    def hex(self, name: str, size_bytes: int) -> bytes:
        value = self.take(name)
        raw = unhex(value, size_bytes)
        if raw is None:
            raise self.bad(name)
        return raw

    def items(self, name: str, max_count: int) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) > max_count:
            raise self.bad(name)
        return value

    def table(self, name: str, max_count: int) -> Document:
        value = self.take(name)
        if not isinstance(value, dict) or len(value) > max_count:
            raise self.bad(name)
        return value

    def done(self) -> None:
        if self._left:
            raise MalformedError(f"{self._what}: unknown field {min(self._left)!r}")


def unhex(value: object, size_bytes: int) -> bytes | None:
    """Exactly ``size_bytes`` of lower-case hex, or None."""
    if not isinstance(value, str) or len(value) != 2 * size_bytes:
        return None
    if not all(c in "0123456789abcdef" for c in value):
        return None
    return bytes.fromhex(value)
