"""What has come of an auditor's verdicts: the poster writes it, ``narrows status`` reads it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from narrows.durable import read_once, write_whole
from narrows.errors import InputError
from narrows.private import private_folder

FOLDER, BOOK = "audit-post", "verdicts.json"
MAX_BOOK_BYTES = 1 << 16
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class VerdictBook:
    """What has come of the verdicts, in ``STATE/audit-post/verdicts.json``. ``closed``: the
    epoch behind whose alarm nothing more is booked, by the policy ``close``. ``day``: number of
    the UTC day, with ``day_spent_bytes``, what ``lineage`` had spent in all at its first verdict,
    and ``day_credited_bytes``, booked since."""

    epoch: str = ""
    sequence: int = 0
    time_s: int = 0
    alarms: int = 0
    credited_bytes: int = 0
    credits: int = 0
    refused: int = 0
    last_refusal: str = ""
    closed: str = ""
    credit_s: int = 0
    credit_bytes: int = 0
    lineage: str = ""
    day: int = 0
    day_spent_bytes: int = 0
    day_credited_bytes: int = 0


_LATER = {
    *("credit_s", "credit_bytes"),
    *("lineage", "day", "day_spent_bytes", "day_credited_bytes"),
}
"""Not in books of the first form."""


def read_book(state_dir: Path) -> VerdictBook:
    """A new one where no poster has run here. Errors: ``InputError``."""
    path = state_dir / FOLDER / BOOK
    if not path.exists():
        return VerdictBook()
    try:
        row = json.loads(read_once(path, MAX_BOOK_BYTES))
        kinds = {name: type(value) for name, value in asdict(VerdictBook()).items()}
        found = {name: type(value) for name, value in row.items()}
        if found != {
            name: kind for name, kind in kinds.items() if name in found or name not in _LATER
        }:
            raise ValueError("other fields")
        return VerdictBook(**row)
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputError(
            f"{path} is no book of verdicts: {error!s:.80}", "delete it: a poster makes it anew"
        ) from error


def write_book(state_dir: Path, book: VerdictBook) -> None:
    """Replace it whole. Errors: ``InputError``."""
    folder = private_folder(state_dir, FOLDER)
    write_whole(folder / BOOK, json.dumps(asdict(book)).encode() + b"\n", 0o644)
