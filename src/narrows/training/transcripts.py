"""Transcripts into files to train on and to measure with.

Rows are kept as they are, once each. Which file a row goes to is decided by its prompt alone
(white space at the ends aside), so all answers to one prompt are on one side, in every import.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import InputError
from narrows.training.examples import read_rows


@dataclass(frozen=True, slots=True)
class Imported:
    """``rows`` read; ``duplicates`` of them left out; the rest by split."""

    rows: int
    duplicates: int
    prompts: int
    train: int
    dev: int
    train_bytes: int
    dev_bytes: int


def in_dev(prompt: str, dev_percent: float) -> bool:
    """Whether answers to this prompt are for measuring."""
    data = b"narrows transcript split" + prompt.strip().encode("utf-8", "surrogatepass")
    value = int.from_bytes(hashlib.sha256(data).digest()[:8], "big")
    return value < dev_percent / 100 * 2.0**64


def import_transcripts(files: Sequence[Path], out: Path, *, dev_percent: float) -> Imported:
    """Write ``train.jsonl`` and ``dev.jsonl`` to ``out``. InputError: a malformed row, or
    files that are there already."""
    for name in ("train.jsonl", "dev.jsonl"):
        if (out / name).exists():
            raise InputError(f"{out / name} exists", "use another folder")
    seen: set[bytes] = set()
    prompts: set[bytes] = set()
    counts = {"train": 0, "dev": 0}
    sizes = {"train": 0, "dev": 0}
    rows = 0
    out.mkdir(parents=True, exist_ok=True)
    drafts = {name: out / f".{name}.jsonl.draft" for name in counts}
    with drafts["train"].open("wb") as train, drafts["dev"].open("wb") as dev:
        for path in files:
            for row in read_rows(path):
                rows += 1
                pair = [row["prompt"].strip(), row["response"]]
                key = _digest(json.dumps(pair))
                if key in seen:
                    continue
                seen.add(key)
                prompts.add(_digest(pair[0]))
                split = "dev" if in_dev(pair[0], dev_percent) else "train"
                counts[split] += 1
                sizes[split] += len(row["response"].encode("utf-8", "surrogatepass"))
                line = json.dumps(row, separators=(",", ":")) + "\n"
                (dev if split == "dev" else train).write(line.encode("ascii"))
    for name, draft in drafts.items():
        draft.replace(out / f"{name}.jsonl")
    return Imported(
        rows, rows - len(seen), len(prompts), counts["train"], counts["dev"], *sizes.values()
    )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
