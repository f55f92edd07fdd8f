"""One TOML file for all roles: typed sections with defaults, every mistake reported at once.

A section is a frozen dataclass of the role that owns it; this module only fills them in, and
asks its ``check`` method, where it has one, about values that fit their types but not the role. A
wrong file raises one ``InputError`` whose ``problems`` name file, line, key, what is wrong and
what would be right. Keys are checked strictly: an unknown one is a mistake, never ignored.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from narrows.errors import InputError
from narrows.sizes import EXAMPLES, size_bytes
from narrows.tomlfile import Path_, TomlFile, read_toml

Range = tuple[str, float, float, float]  # name, value, lowest, highest

_REMEDIES = {
    "extra_forbidden": "no such key",
    "unexpected_keyword_argument": "no such key",
    "missing": "this key is required",
}


def out_of_range(ranges: Iterable[Range]) -> list[str]:
    """A line for each value that is not within its bounds; NaN never is."""
    return [
        f"{name} is {value}, must be {low}..{high}"
        for name, value, low, high in ranges
        if not low <= value <= high
    ]


def load_sections(
    path: Path | None, sections: Mapping[str, type], others: Sequence[str] = ()
) -> dict[str, Any]:
    """The sections of the file at ``path``; all defaults where ``path`` is None.

    ``sections``: name of a top-level table to the dataclass that it fills. ``others``: tables
    that may be there too and are not looked at. Raises InputError with every problem.
    """
    return fill_sections(toml_or_defaults(path), sections, others)


def toml_or_defaults(path: Path | None) -> TomlFile:
    return read_toml(path) if path is not None else TomlFile("defaults", {})


def fill_sections(
    file: TomlFile, sections: Mapping[str, type], others: Sequence[str] = ()
) -> dict[str, Any]:
    """As ``load_sections``, of a file that has been read."""
    known = [*sections, *others]
    problems = [
        f"{file.where((name,))}: [{name}] is no section; {_nearest(name, known)}"
        for name in file.data
        if name not in known
    ]
    values: dict[str, Any] = {}
    for name, kind in sections.items():
        data = _sized(file.data.get(name, {}), kind)
        try:
            values[name] = _adapter(kind).validate_python(data)
        except ValidationError as error:
            problems += [_problem(file, name, kind, item) for item in error.errors()]
            data = _without(data, [item["loc"] for item in error.errors()])
        problems += _refused(file, name, kind, data)
    if problems:
        raise InputError(
            f"{file.name} has {len(problems)} mistake{'s' * (len(problems) > 1)}",
            problems=tuple(problems),
        )
    return values


def _sized(data: Any, hint: Any) -> Any:
    """``data`` with the sizes that are written as text (``"10MB"``) in bytes, where a key's name
    says that it is one; what is no size stays as it is and is reported by its key. ``hint``: its
    type; where anything may be in it, its keys are someone else's words."""
    if isinstance(data, list):
        return [_sized(item, hint) for item in data]
    if not isinstance(data, dict) or Any in _parts(hint):
        return data
    kind = next((part for part in _parts(hint) if dataclasses.is_dataclass(part)), None)
    hints = {} if kind is None else _hints(kind)
    return {
        key: _size(item) if key.endswith("_bytes") else _sized(item, hints.get(key))
        for key, item in data.items()
    }


def _size(value: Any) -> Any:
    try:
        return size_bytes(value, "size") if isinstance(value, str) else value
    except InputError:
        return value


def _refused(file: TomlFile, section: str, kind: type, data: Any) -> list[str]:
    """What the section's own ``check`` says of ``data``, with the lines of the keys it names."""
    try:
        value = _adapter(kind).validate_python(data)
        getattr(value, "check", lambda: None)()
    except ValidationError:  # reported already; nothing is left that could be checked
        return []
    except InputError as error:
        return [
            f"{file.where((section, *_named(file, section, problem)))}: {section}: {problem}"
            for problem in error.problems
        ]
    return []


def _named(file: TomlFile, section: str, problem: str) -> Path_:
    """The key of ``section`` that a problem speaks of: the first of its words that is one."""
    inside = [path[1:] for path in file.lines if path[:1] == (section,) and len(path) > 1]
    for word in re.findall(r"\w+", problem):
        for path in inside:
            if path[-1] == word:
                return path
    return ()


def _without(data: Any, places: Iterable[Path_]) -> Any:
    """A copy of ``data`` without what lies at ``places``, so that the rest can be checked."""
    rest = copy.deepcopy(data)
    for place in places:
        inner = rest
        for step in place:
            if not isinstance(inner, dict) or step not in inner:
                break
            if step == place[-1] or not isinstance(inner[step], dict):
                del inner[step]
                break
            inner = inner[step]
    return rest


def _adapter(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(_strict(kind))


def _strict(kind: type) -> type:
    """Forbid unknown keys in the dataclass and all dataclasses inside it."""
    seen: set[type] = set()
    waiting = [kind]
    while waiting:
        current = waiting.pop()
        if current in seen or not dataclasses.is_dataclass(current):
            continue
        seen.add(current)
        current.__pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[attr-defined]
        for hint in _hints(current).values():
            waiting += [part for part in _parts(hint) if isinstance(part, type)]
    return kind


def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


def _parts(hint: Any) -> list[Any]:
    inner = typing.get_args(hint)
    return [hint, *(part for item in inner for part in _parts(item))]


def _problem(file: TomlFile, section: str, kind: type, item: Mapping[str, Any]) -> str:
    path = (section, *(part for part in item["loc"] if isinstance(part, str | int)))
    key = ".".join(str(part) for part in path)
    text = _REMEDIES.get(item["type"], item["msg"])
    if item["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        text += "; " + _nearest(str(path[-1]), _names(kind, path[1:-1]))
    elif "input" in item and item["type"] != "missing":
        text += f", not {item['input']!r}"
        if key.endswith("_bytes") and isinstance(item["input"], str):
            text += f"; write a size as {EXAMPLES}"
    return f"{file.where(path)}: {key}: {text}"


def _names(kind: Any, path: tuple[str | int, ...]) -> list[str]:
    """Field names of the dataclass that ``path`` leads to."""
    for part in path:
        if isinstance(part, str):
            kind = _hints(kind).get(part)
        for candidate in _parts(kind):
            if dataclasses.is_dataclass(candidate):
                kind = candidate
                break
    return (
        [field.name.rstrip("_") for field in dataclasses.fields(kind)]
        if dataclasses.is_dataclass(kind)
        else []
    )


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]}?" if close else f"there are: {', '.join(sorted(known))}"
