"""One call of a tool, as a model wrote it: JSON with a name and arguments.

The arguments are passed on as they were written. Whatever may be read in two ways is no call: a
key twice, NaN, a name that is none of the request's tools, arguments that are no object.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any, NamedTuple, NoReturn

_SPACE = " \t\r\n"


class WrittenCall(NamedTuple):
    """``arguments``: JSON of an object."""

    name: str
    arguments: str


def read_call(text: str, keys: tuple[str, ...], tools: Container[str]) -> WrittenCall | None:
    """The call that ``text`` is, space around it left out; None where it is none. ``keys``: what
    the arguments may be called."""
    try:
        members = _members(text.strip(_SPACE))
    except (ValueError, RecursionError):
        return None
    named = [key for key in keys if key in members]
    if len(named) != 1 or "name" not in members:
        return None
    name, _ = members["name"]
    arguments, written = members[named[0]]
    if not isinstance(name, str) or name not in tools or not isinstance(arguments, dict):
        return None
    return WrittenCall(name, written)


def _members(text: str) -> dict[str, tuple[Any, str]]:
    """The members of the object that ``text`` is: value, and how it was written. ValueError."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)
    found: dict[str, tuple[Any, str]] = {}
    at = _past(text, 0, "{")
    if text[at : at + 1] == "}":
        return _whole(text, at, found)
    while True:
        key, at = decoder.raw_decode(text, at)
        if not isinstance(key, str) or key in found:
            raise ValueError("no key of its own")
        at = _past(text, _skip(text, at), ":")
        value, end = decoder.raw_decode(text, at)
        found[key] = value, text[at:end]
        at = _skip(text, end)
        if text[at : at + 1] != ",":
            return _whole(text, at, found)
        at = _skip(text, at + 1)


def _whole(text: str, at: int, found: dict[str, tuple[Any, str]]) -> dict[str, tuple[Any, str]]:
    if text[at:] != "}":
        raise ValueError("no end, or something behind it")
    return found


def _past(text: str, at: int, mark: str) -> int:
    if text[at : at + 1] != mark:
        raise ValueError(f"no {mark}")
    return _skip(text, at + 1)


def _skip(text: str, at: int) -> int:
    while text[at : at + 1] and text[at] in _SPACE:
        at += 1
    return at


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key twice")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
