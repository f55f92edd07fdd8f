"""Read a TOML file and remember on which line each key stands.

Both the configuration and forecast scenarios report *every* mistake at once, each with its
line; ``tomllib`` parses but forgets positions, so ``line_of`` finds them again. The finder
understands tables, arrays of tables, dotted and quoted keys; inside multi-line values and
inline tables it answers with the line of the nearest enclosing key.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narrows.durable import read_once
from narrows.errors import InputError

MAX_FILE_BYTES = 1 << 20

_TABLE = re.compile(r"^\s*(\[\[?)\s*([^\]]+?)\s*\]\]?\s*(?:#.*)?$")
_NAME = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_KEY = re.compile(rf"^\s*({_NAME}(?:\s*\.\s*{_NAME})*)\s*=")
_PART = re.compile(_NAME)

Path_ = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class TomlFile:
    """``data``: the parsed document. ``lines``: key path to 1-based line number."""

    name: str
    data: dict[str, Any]
    lines: dict[Path_, int] = field(default_factory=dict)

    def line_of(self, path: Path_) -> int | None:
        """The line of the key at ``path``, or of its nearest parent that has one."""
        for end in range(len(path), 0, -1):
            if path[:end] in self.lines:
                return self.lines[path[:end]]
        return None

    def where(self, path: Path_) -> str:
        """``file:line`` for messages; just the file where the key is not in it."""
        line = self.line_of(path)
        return f"{self.name}:{line}" if line else self.name


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _find_lines(text: str) -> dict[Path_, int]:
    lines: dict[Path_, int] = {}
    counts: dict[Path_, int] = {}
    table: Path_ = ()
    closing: str | None = None  # inside a multi-line string, the quotes that end it
    for number, line in enumerate(text.splitlines(), 1):
        if closing is not None:
            if closing in line:
                closing = None
            continue
        if match := _TABLE.match(line):
            table = _parts(match.group(2))
            if match.group(1) == "[[":
                index = counts.get(table, 0)
                counts[table] = index + 1
                table = (*table, index)
            lines.setdefault(table, number)
        elif match := _KEY.match(line):
            lines.setdefault(table + _parts(match.group(1)), number)
            value = line[match.end() :]
            for quotes in ('"""', "'''"):
                if value.count(quotes) == 1:
                    closing = quotes
    return lines


def parse_toml(text: str, name: str) -> TomlFile:
    """Parse ``text``; a syntax error is an InputError that already names its line."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_FILE_BYTES:
        raise InputError(f"{name} is larger than {MAX_FILE_BYTES} bytes")
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{name} is not TOML: {error}") from error
    return TomlFile(name, data, _find_lines(text))


def read_toml(path: Path) -> TomlFile:
    """Read and parse a regular file of at most 1 MiB, or what a link leads to."""
    try:
        text = read_once(path, MAX_FILE_BYTES, follow_links=True).decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 (byte {error.start})") from error
    return parse_toml(text, str(path))
