"""Rows of prompts and answers: JSON lines, as people bring them and the edge keeps them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from narrows.errors import InputError

MAX_LINE_BYTES = 1 << 22


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file whose ``prompt`` and ``response`` are strings, bounded line by
    line; empty lines are passed over. ``InputError`` names the line that is wrong."""
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(MAX_LINE_BYTES + 1), b""), 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line) if len(line) <= MAX_LINE_BYTES else None
                except (ValueError, RecursionError):
                    row = None
                if not isinstance(row, dict) or not all(
                    isinstance(row.get(key), str) for key in ("prompt", "response")
                ):
                    raise InputError(f"{path.name}:{number} is no object with prompt and response")
                yield row
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error


def answered_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows whose answer is not empty: of the others nothing can be learned."""
    return (row for row in read_rows(path) if row["response"])


def some_rows(path: Path, limit: int | None = None) -> list[dict[str, Any]]:
    """The first ``limit`` rows, or all. ``InputError`` where there is none."""
    rows: list[dict[str, Any]] = []
    for row in read_rows(path):
        if limit is not None and len(rows) >= limit:
            break
        rows.append(row)
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def messages_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The conversation of a row: its ``messages``, else one message of a user."""
    messages = row.get("messages")
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return messages
    return [{"role": "user", "content": row["prompt"]}]


def _is_message(value: object) -> bool:
    return isinstance(value, dict) and all(
        isinstance(value.get(part), str) for part in ("role", "content")
    )
