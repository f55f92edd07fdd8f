"""What the edge counts for whoever exports metrics: ``figures`` in ``edge.db``.

Counters outlive the edge, gauges hold for as long as it writes them anew. Names and units are
Prometheus' conventions, labels come from closed sets (codes of errors, codings, weak models), and
nothing here is by API key. A histogram's buckets do not add up those below them.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from narrows.edge.books.store import has_table, reading

LATENCY_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Upper bounds of the buckets of both latencies, seconds; one above them has no bound."""
GAUGES_EVERY_S = 5.0
FRESH_S = 15.0
MAX_SERIES = 4096

Labels = tuple[tuple[str, str], ...]
Series = tuple[str, Labels]


def series(name: str, **labels: str) -> Series:
    return name, tuple(sorted(labels.items()))


@dataclass(slots=True)
class MetricCounts:
    """Not written yet. ``counters``: what to add. ``gauges``: what to put."""

    counters: dict[Series, float] = field(default_factory=dict)
    gauges: dict[Series, float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.counters or self.gauges)

    def add(self, name: str, value: float = 1, **labels: str) -> None:
        key = series(name, **labels)
        self.counters[key] = self.counters.get(key, 0) + value

    def observe(self, name: str, seconds: float, **labels: str) -> None:
        """One more of a histogram: its bucket, and the sum."""
        bound = next((str(one) for one in LATENCY_S if seconds <= one), "+Inf")
        self.add(name, 1, le=bound, **labels)
        self.add(f"{name}_sum", seconds, **labels)

    def put_back(self, unwritten: MetricCounts) -> None:
        """Keep for the next try; newer gauges stay."""
        for key, value in unwritten.counters.items():
            self.counters[key] = self.counters.get(key, 0) + value
        self.gauges = unwritten.gauges | self.gauges

    def write(self, database: sqlite3.Connection, now_s: float) -> None:
        """Inside a transaction. Raises sqlite3.Error."""
        for (name, labels), value in self.counters.items():
            database.execute(
                "INSERT INTO figures VALUES (?, ?, ?, NULL) ON CONFLICT (name, labels) DO UPDATE"
                " SET value = value + excluded.value",
                (name, json.dumps(dict(labels)), float(value)),
            )
        for (name, labels), value in self.gauges.items():
            database.execute(
                "INSERT OR REPLACE INTO figures VALUES (?, ?, ?, ?)",
                (name, json.dumps(dict(labels)), float(value), now_s),
            )


def read_figures(state_dir: Path, now_s: float) -> tuple[dict[Series, float], bool]:
    """All counters, the gauges that are fresh, and whether any is: then an edge runs here. From
    any process. Raises NarrowsError."""
    with reading(state_dir) as database:
        if database is None or not has_table(database, "figures"):
            return {}, False
        rows = database.execute(
            "SELECT name, labels, value, gauge_s FROM figures LIMIT ?", (MAX_SERIES,)
        ).fetchall()
    found: dict[Series, float] = {}
    fresh = False
    for name, text, value, gauge_s in rows:
        if gauge_s is not None and abs(now_s - gauge_s) > FRESH_S:
            continue
        fresh |= gauge_s is not None
        try:
            labels = json.loads(text)
        except (ValueError, RecursionError):
            continue  # somebody changed the file: figures are advisory
        if isinstance(labels, dict) and all(isinstance(one, str) for one in labels.values()):
            found[series(name, **labels)] = value
    return found, fresh
