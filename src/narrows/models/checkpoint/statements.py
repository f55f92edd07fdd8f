"""What the files of a checkpoint say, and what to do where two of them say different things.

A setting may stand in several places. All that are there must agree, numbers by value (1e4 is
10000.0); else the checkpoint is refused with both statements in the message. Nothing is
half believed: no place wins by being read last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from narrows.errors import ArtifactError

MAX_JSON_BYTES = 1 << 26

# Ends of an answer that files often do not name; each counts where it is a control token.
END_TEXTS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>")

Statement = tuple[str, Any]  # where it stands, what it says; None says nothing


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. ArtifactError: unreadable, larger than MAX_JSON_BYTES, no
    object, or a key twice in one object."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"cannot read {path.name}: {error.strerror or error}") from error
    if len(data) > MAX_JSON_BYTES:
        raise ArtifactError(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
    return parse_object(data, path.name)


def parse_object(data: bytes, name: str) -> dict[str, Any]:
    """The JSON object in ``data``; ``name`` is for messages. ArtifactError as ``read_json``."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ArtifactError(f"{name} has the key {key!r:.80} twice")
            found[key] = value
        return found

    try:
        value = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{name} is no JSON: {error!s:.120}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{name} is no JSON object")
    return value


def same(left: Any, right: Any) -> bool:
    """Equal, numbers by value; a truth value equals no number."""
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def agreed(statements: Iterable[Statement]) -> Any:
    """What all statements say, None where none says anything. ArtifactError names two that
    differ."""
    said = [(place, value) for place, value in statements if value is not None]
    for place, value in said[1:]:
        if not same(said[0][1], value):
            raise two_statements(said[0], (place, value))
    return said[0][1] if said else None


def two_statements(first: Statement, second: Statement) -> ArtifactError:
    """The error that says what both say."""
    return ArtifactError(
        f"the checkpoint says two things: {first[0]} is {first[1]!r:.80}, "
        f"{second[0]} is {second[1]!r:.80}",
        "correct the one that is wrong",
    )
