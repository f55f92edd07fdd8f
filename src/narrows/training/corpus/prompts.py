"""Prompts to sample answers for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from narrows.errors import InputError

MAX_FILE_BYTES = 1 << 30


def read_prompts(path: Path, seed: int) -> list[dict[str, str]]:
    """Rows with ``id`` and ``prompt`` of a JSONL file, each prompt once, in an order that
    ``seed`` decides. InputError names the line that is wrong."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InputError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    rows: dict[str, dict[str, str]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        texts = [row.get(k) for k in ("id", "prompt")] if isinstance(row, dict) else [None]
        if not all(isinstance(text, str) for text in texts):
            raise InputError(f"{path.name}:{number} is no object with id and prompt")
        rows.setdefault(row["prompt"], {"id": row["id"], "prompt": row["prompt"]})
    unique = list(rows.values())
    return [unique[i] for i in np.random.default_rng(seed).permutation(len(unique))]
