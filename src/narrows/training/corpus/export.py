"""Transcripts as one file: JSON lines, or Parquet where pyarrow is installed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from narrows.durable import replacing
from narrows.errors import InputError
from narrows.rows import answered_rows

BATCH_ROWS = 1000
TEXTS = ("id", "weak", "finish", "prompt", "response")
NUMBERS = ("choice", "key", "time_s")

Progress = Callable[[int, int], None]


def export_rows(
    files: Sequence[Path], out: Path, progress: Progress = lambda done, total: None
) -> int:
    """Write all rows of ``files`` to ``out``, by its suffix ``.jsonl`` or ``.parquet``; how
    many. In Parquet ``messages`` is JSON text. Mode 0600. InputError: a malformed row, another
    suffix, no pyarrow, a file that is there already, or a disk that takes none."""
    if out.exists():
        raise InputError(f"{out} exists", "name another file")
    if out.suffix not in (".jsonl", ".parquet"):
        raise InputError(f"{out.name} is neither .jsonl nor .parquet")
    write = _write_jsonl if out.suffix == ".jsonl" else _write_parquet
    try:
        with replacing(out, 0o600) as file:
            return write(_rows(files, progress), file)
    except OSError as error:
        raise InputError(f"cannot write {out}: {error}") from error


def _rows(files: Sequence[Path], progress: Progress) -> Iterator[dict[str, Any]]:
    for done, path in enumerate(files):
        progress(done, len(files))
        yield from answered_rows(path)


def _write_jsonl(rows: Iterator[dict[str, Any]], file: BinaryIO) -> int:
    count = 0
    for row in rows:
        file.write(json.dumps(row, separators=(",", ":")).encode("ascii") + b"\n")
        count += 1
    return count


def _write_parquet(rows: Iterator[dict[str, Any]], file: BinaryIO) -> int:
    try:
        import pyarrow as arrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise InputError("Parquet needs pyarrow", "pip install pyarrow, or use .jsonl") from error
    fields = [(name, arrow.string()) for name in (*TEXTS, "messages")]
    schema = arrow.schema(fields + [(name, arrow.int64()) for name in NUMBERS])
    count = 0
    with parquet.ParquetWriter(file.name, schema) as writer:
        batch: list[dict[str, Any]] = []
        for row in rows:
            batch.append(_flat(row))
            count += 1
            if len(batch) == BATCH_ROWS:
                writer.write_table(arrow.Table.from_pylist(batch, schema))
                batch = []
        if batch:
            writer.write_table(arrow.Table.from_pylist(batch, schema))
    return count


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Columns that Parquet can hold: its text is UTF-8, so lone surrogates become U+FFFD."""
    flat: dict[str, Any] = {
        name: row[name].encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        if isinstance(row.get(name), str)
        else None
        for name in TEXTS
    }
    for name in NUMBERS:
        value = row.get(name)
        fits = type(value) is int and abs(value) < 1 << 63
        flat[name] = value if fits else None
    return flat | {"messages": json.dumps(row["messages"]) if "messages" in row else None}
