"""Does a weak model still imitate as well as it did? Bits per byte by day, against a reference.

The reference is what the model's operator signed, or else its own first days at this edge: as
many as bring ``min_bytes`` of answers. It is compared with the mean of the last ``days`` days
that are not part of it. Only code length and text of complete answers count, so cancelled
answers, failures and padding are no drift.
"""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from narrows.edge.books.stats import Imitation, utc_day
from narrows.edge.books.store import has_table, reading, transaction
from narrows.edge.config import DriftConfig

REMEDY = (
    "train on newer answers: 'narrows weak data', 'narrows weak train', then "
    "'narrows weak publish' and 'narrows weak switch'"
)


@dataclass(frozen=True, slots=True)
class Drift:
    """``reference``: ``signed`` or ``first days``; empty, as the figures 0, where there is not
    enough yet. ``worse``: share above the reference; ``drifting``: above the bound."""

    weak: str
    answers: int
    bits_per_byte: float
    reference: str = ""
    reference_bits_per_byte: float = 0.0
    worse: float = 0.0
    drifting: bool = False
    remedy: str = ""


def judge(
    weak: str, days: Mapping[str, Imitation], stated: float, bounds: DriftConfig, today: str
) -> Drift:
    """One weak model. ``days``: ISO date to counts."""
    first = "" if stated else _first_days(days, bounds.min_bytes)
    since = datetime.date.fromisoformat(today) - datetime.timedelta(days=bounds.days - 1)
    shown = _sum(days, since.isoformat(), today)
    recent = _sum(days, max(since.isoformat(), first and _after(first)), today)
    reference = stated or (_sum(days, "", first).bits_per_byte if first else 0.0)
    if not reference or recent.text_bytes < bounds.min_bytes:
        return Drift(weak, shown.answers, shown.bits_per_byte)
    worse = recent.bits_per_byte / reference - 1
    drifting = 100 * worse > bounds.worse_percent
    return Drift(
        weak,
        recent.answers,
        recent.bits_per_byte,
        "signed" if stated else "first days",
        reference,
        worse,
        drifting,
        REMEDY if drifting else "",
    )


def _first_days(days: Mapping[str, Imitation], min_bytes: int) -> str:
    """The last of the days that are the reference; empty where there are not enough."""
    text_bytes = 0
    for day in sorted(days):
        text_bytes += days[day].text_bytes
        if text_bytes >= min_bytes:
            return day
    return ""


def _after(day: str) -> str:
    return (datetime.date.fromisoformat(day) + datetime.timedelta(days=1)).isoformat()


def _sum(days: Mapping[str, Imitation], first: str, last: str) -> Imitation:
    total = Imitation()
    for day, own in days.items():
        if first <= day <= last:
            total.add(own.answers, own.text_bytes, own.bits)
    return total


def save_bounds(database: sqlite3.Connection, bounds: DriftConfig) -> None:
    """Where ``narrows status`` finds them, which reads no configuration."""
    values = (bounds.worse_percent, bounds.days, bounds.min_bytes)
    with transaction(database):
        database.execute("INSERT OR REPLACE INTO drift_bounds VALUES (1, ?, ?, ?)", values)


def read_drift(state_dir: Path, now_s: float) -> list[Drift]:
    """Every weak model that was used in the last days, from any process. Raises
    NarrowsError."""
    with reading(state_dir) as database:
        return [] if database is None else _read(database, utc_day(now_s))


def _read(database: sqlite3.Connection, today: str) -> list[Drift]:
    if not has_table(database, "drift_bounds"):
        return []  # no edge of this version ran yet
    row = database.execute("SELECT worse_percent, days, min_bytes FROM drift_bounds").fetchone()
    bounds = DriftConfig(*row) if row else DriftConfig()
    stated = dict(database.execute("SELECT weak, stated_bits_per_byte FROM weak_models").fetchall())
    by_weak: dict[str, dict[str, Imitation]] = {}
    for day, weak, *counts in database.execute("SELECT * FROM imitation ORDER BY day"):
        by_weak.setdefault(weak, {})[day] = Imitation(*counts)
    judged = [
        judge(weak, days, stated.get(weak, 0.0), bounds, today) for weak, days in by_weak.items()
    ]
    return [one for one in judged if one.answers]
