"""Transcripts into files to train on and to measure with.

Rows are kept as they are, once each. Which file a row goes to is decided by its prompt alone
(white space at the ends aside), so all answers to one prompt are on one side, in every import.
``data.json`` says which files, by digest, were made of which: a record for people, no program
reads it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from narrows.durable import replacing, write_whole
from narrows.errors import InputError
from narrows.models.shelf.origin import named_digests
from narrows.rows import answered_rows

SPLITS = ("train", "dev")
Progress = Callable[[int, int], None]  # bytes read, bytes in all


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


def import_transcripts(
    files: Sequence[Path],
    out: Path,
    *,
    dev_percent: float,
    progress: Progress = lambda done, total: None,
) -> Imported:
    """Write ``train.jsonl``, ``dev.jsonl`` (mode 0600) and ``data.json`` to ``out``.
    InputError: a malformed row, files that are there already, or a disk that takes none."""
    for name in SPLITS:
        if (out / f"{name}.jsonl").exists():
            raise InputError(f"{out / name}.jsonl exists", "use another folder")
    try:
        return _import(files, out, dev_percent, progress)
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error}") from error


def _import(files: Sequence[Path], out: Path, dev_percent: float, progress: Progress) -> Imported:
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        outputs = {
            name: opened.enter_context(replacing(out / f"{name}.jsonl", 0o600)) for name in SPLITS
        }
        report = _split(files, outputs, dev_percent, progress)
    facts = {
        "report": dataclasses.asdict(report),
        "dev_percent": dev_percent,
        "inputs_sha256": named_digests(files),
        "data_sha256": named_digests(out / f"{name}.jsonl" for name in SPLITS),
    }
    write_whole(out / "data.json", (json.dumps(facts, indent=1, sort_keys=True) + "\n").encode())
    return report


def _split(
    files: Sequence[Path], outputs: dict[str, BinaryIO], dev_percent: float, progress: Progress
) -> Imported:
    seen: set[bytes] = set()
    prompts: set[bytes] = set()
    counts = dict.fromkeys(SPLITS, 0)
    sizes = dict.fromkeys(SPLITS, 0)
    rows = 0
    for row in _rows(files, progress):
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
        outputs[split].write(line.encode("ascii"))
    return Imported(
        rows, rows - len(seen), len(prompts), counts["train"], counts["dev"], *sizes.values()
    )


def _rows(files: Sequence[Path], progress: Progress) -> Iterator[dict[str, Any]]:
    sizes = [path.stat().st_size if path.is_file() else 0 for path in files]
    done = 0
    for path, size in zip(files, sizes, strict=True):
        for count, row in enumerate(answered_rows(path)):
            if count % 256 == 0:
                progress(done, sum(sizes))
            yield row
        done += size
        progress(done, sum(sizes))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
