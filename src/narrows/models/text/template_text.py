"""What chat templates do with text, each size known before the text is made.

The same results as Python's ``str`` methods and ``%``, or SecurityError: beyond
``MAX_CHARACTERS``, a width above ``MAX_WIDTH``, or what formats anything but plain values.
``strftime_now`` tells a fixed day, so that enclave and edge write one prompt whenever they run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment, SandboxedFormatter
from markupsafe import Markup

MAX_CHARACTERS = 1 << 24
MAX_WIDTH = 4096  # of one formatted value
_JINJAS = ("_loop_vars", "_block_vars")  # what a compiled template adds to every call
_PLAIN = (str, int, float, type(None))

# Friday 26 July 2024, 00:00: the day that Llama templates print where there is no clock.
_NOW = {
    "Y": "2024",
    "y": "24",
    "m": "07",
    "d": "26",
    "e": "26",
    "j": "208",
    "u": "5",
    "w": "5",
    "B": "July",
    "b": "Jul",
    "h": "Jul",
    "A": "Friday",
    "a": "Fri",
    "p": "AM",
    "H": "00",
    "I": "12",
    "M": "00",
    "S": "00",
    "f": "000000",
    "z": "",
    "Z": "",
    "%": "%",
    "n": "\n",
    "F": "2024-07-26",
    "T": "00:00:00",
    "R": "00:00",
    "D": "07/26/24",
    "t": "\t",
    "x": "07/26/24",
    "X": "00:00:00",
    "c": "Fri Jul 26 00:00:00 2024",
    "G": "2024",
    "V": "30",
    "U": "29",
    "W": "30",
    "C": "20",
}
# What this reads as no kind of value, as it does where a key holds parentheses, is refused:
# Python may read it otherwise.
_PERCENT = re.compile(
    r"%(?P<key>\([^()]*\))?[-#0 +]*(?P<width>\*|\d+)?(?:\.(?P<digits>\*|\d*))?[hlL]?(?P<kind>.|$)",
    re.DOTALL,
)
_KINDS = frozenset("diouxXeEfFgGcrsa")


def check_size(size: int) -> None:
    """SecurityError where a text or list of ``size`` would be too large."""
    if size > MAX_CHARACTERS:
        raise SecurityError("a template makes too much text")


def check_width(width: object) -> None:
    """SecurityError unless one value may be padded so far."""
    if not isinstance(width, int) or width > MAX_WIDTH:
        raise SecurityError(f"a template pads to {width!r:.40}")


def strftime_now(pattern: str) -> str:
    """``pattern`` for the fixed day. SecurityError: a directive that is not known."""
    check_size(16 * len(pattern))

    def said(match: re.Match[str]) -> str:
        flag, name = match.groups()
        text = _NOW.get(name)
        if text is None or (flag and not text.isdigit()):
            raise SecurityError(f"strftime_now does not know {match.group()!r:.20}")
        return text.lstrip("0") or "0" if flag else text

    return re.sub(r"%(-?)(.|$)", said, pattern, flags=re.DOTALL)


def to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    """JSON of at most ``MAX_CHARACTERS``, with the options that transformers gives ``tojson``."""
    width = indent if isinstance(indent, int) else len(indent or "")
    if not 0 <= width <= 16 or any(len(text) > 16 for text in separators or ()):
        raise SecurityError("a template indents too far")
    pair = None if separators is None else tuple(separators)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys
    )
    parts: list[str] = []
    size = 0
    for part in encoder.iterencode(value):
        size += len(part)
        parts.append(part)
        check_size(size + 16 * len(parts))
    return "".join(parts)


def percent(template: str, values: Any) -> str:
    """``template % values``. Of a mapping every value is formatted by its key, never the whole."""
    found = [match for match in _PERCENT.finditer(template) if match.group() != "%%"]
    size = len(template)
    growth = 10 if isinstance(template, Markup) or any(m["kind"] in "ra" for m in found) else 1
    widest = max((_plain_length(value) for value in _row(values)), default=0) * growth
    for match in found:
        if match["kind"] not in _KINDS:
            raise SecurityError(f"a template formats with {match.group()!r:.40}")
        if isinstance(values, Mapping) and match["key"] is None:
            raise SecurityError("a template formats a whole mapping")
        if "*" in (match["width"], match["digits"]):
            raise SecurityError("a template formats with a width from its values")
        check_width(int(match["width"] or 0))
        check_width(int(match["digits"] or 0))
        size += widest + int(match["width"] or 0) + int(match["digits"] or 0)
        check_size(size)
    made: str = template % values
    return made


def _row(values: Any) -> list[Any]:
    if isinstance(values, Mapping):
        return list(values.values())
    return list(values) if isinstance(values, tuple) else [values]


def _plain_length(value: Any) -> int:
    """An upper bound of the characters of a plain value. SecurityError for any other."""
    if not isinstance(value, _PLAIN):
        raise SecurityError("a template formats what is no text or number")
    if isinstance(value, int):
        return 512 + 2 * value.bit_length()
    return len(value) if isinstance(value, str) else 512


class _Formatter(SandboxedFormatter):
    """``str.format`` that counts what it makes."""

    def __init__(self, environment: SandboxedEnvironment) -> None:
        super().__init__(environment)
        self._size = 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        check_size(10 * _plain_length(value) if conversion else 0)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        widths = [int(digits) for digits in re.findall(r"\d+", format_spec)]
        for width in widths:
            check_width(width)
        self._size += _plain_length(value) + sum(widths)
        check_size(self._size)
        return super().format_field(value, format_spec)


def call_text_method(
    environment: SandboxedEnvironment, owner: str, name: str, args: Any, kwargs: Any
) -> Any:
    """``owner.name(*args, **kwargs)`` for the methods of ``METHODS``."""
    own = {key: value for key, value in kwargs.items() if key not in _JINJAS}
    return METHODS[name](environment, owner, *args, **own)


def _format(environment: SandboxedEnvironment, text: str, *args: Any, **kwargs: Any) -> str:
    check_size(len(text))
    return _Formatter(environment).vformat(text, args, kwargs)


def _format_map(environment: SandboxedEnvironment, text: str, mapping: Any) -> str:
    check_size(len(text))
    return _Formatter(environment).vformat(text, (), mapping)


def _padded(method: Callable[..., str]) -> Callable[..., str]:
    def pad(environment: SandboxedEnvironment, text: str, width: int, *fill: str) -> str:
        check_width(width)
        return method(text, width, *fill)

    return pad


def _expandtabs(environment: SandboxedEnvironment, text: str, tabsize: int = 8) -> str:
    check_width(tabsize)
    check_size(len(text) + text.count("\t") * max(0, tabsize))
    return text.expandtabs(tabsize)


def _translate(environment: SandboxedEnvironment, text: str, table: Any) -> str:
    if not isinstance(table, dict | list | tuple):
        raise SecurityError("a template translates by what is no table")
    values = table.values() if isinstance(table, dict) else table
    longest = max(map(_translated_length, values), default=1)
    check_size(len(text) * max(1, longest))
    return text.translate(table)


def _translated_length(value: Any) -> int:
    """Of what takes a character's place: a text, the number of a character, None for nothing."""
    if not isinstance(value, str | int | None):
        raise SecurityError("a template translates to what is no text")
    return len(value) if isinstance(value, str) else 1


def replace(text: str, old: str, new: str, count: int | None = None) -> str:
    """``str.replace``; ``count`` below 0 or None is every place."""
    most = -1 if count is None else count
    found = text.count(old) if most < 0 else min(most, text.count(old))
    check_size(len(text) + found * len(new))
    return text.replace(old, new, most)


METHODS: dict[str, Callable[..., Any]] = {
    "format": _format,
    "format_map": _format_map,
    "center": _padded(str.center),
    "ljust": _padded(str.ljust),
    "rjust": _padded(str.rjust),
    "zfill": _padded(str.zfill),
    "expandtabs": _expandtabs,
    "translate": _translate,
    "replace": lambda environment, text, *args: replace(text, *args),
}
