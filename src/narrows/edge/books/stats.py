"""What the edge counts: answers, their bytes, and the bytes that the link brought.

``link_bytes`` counts what was read from the gate's socket, greeting, padding and failures
included, so that answer_bytes / link_bytes is the ratio that the operator pays. Counts are
kept in memory and added to the database about once a second and at exit; kill -9 loses at most
that second of statistics, never of budget. A failed write keeps the counts for the next one.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from narrows.coding.events import Coding
from narrows.edge.books.figures import GAUGES_EVERY_S, MetricCounts, Series
from narrows.edge.books.store import has_table, reading, transaction

log = logging.getLogger("narrows.edge.stats")


@dataclass(slots=True)
class Counts:
    """``answers``: completed. ``answer_bytes``: UTF-8 of all text handed to clients.
    ``link_bytes``: read from the gate. ``tokens``: of the weak model, or as reported."""

    answers: int = 0
    answer_bytes: int = 0
    link_bytes: int = 0
    tokens: int = 0

    def add(self, other: Counts) -> None:
        self.answers += other.answers
        self.answer_bytes += other.answer_bytes
        self.link_bytes += other.link_bytes
        self.tokens += other.tokens


@dataclass(frozen=True, slots=True)
class EdgeStats:
    """``by_day``: ISO date (UTC) to weak model's name to counts."""

    total: Counts
    today: Counts
    by_day: dict[str, dict[str, Counts]] = field(default_factory=dict)


def utc_day(now_s: float) -> str:
    return datetime.datetime.fromtimestamp(now_s, datetime.UTC).date().isoformat()


@dataclass(slots=True)
class Imitation:
    """How well a weak model guesses: complete answers, their text in UTF-8 bytes, and its code
    length on the link, in bits."""

    answers: int = 0
    text_bytes: int = 0
    bits: int = 0

    def add(self, answers: int, text_bytes: int, bits: int) -> None:
        self.answers += answers
        self.text_bytes += text_bytes
        self.bits += bits

    @property
    def bits_per_byte(self) -> float:
        return self.bits / self.text_bytes if self.text_bytes else 0.0


_Traffic = dict[tuple[str, str], Counts]
_KeyUse = dict[tuple[int, str], list[int]]
_Place = tuple[int, str, str]
"""Of a cost: key, model, mode."""
_Costs = dict[tuple[str, _Place], list[int]]
_Imitations = dict[tuple[str, str], Imitation]


@dataclass(slots=True)
class _Unwritten:
    """``traffic`` and ``imitation`` by day and weak model, ``keys`` by key and day, ``codings``:
    answers by day and coding, ``stated``: signed bits per byte by weak model, ``costs``: answers,
    bits and saved bytes by day and place, ``figures``: for metrics, written at ``at_s``."""

    traffic: _Traffic = field(default_factory=dict)
    keys: _KeyUse = field(default_factory=dict)
    imitation: _Imitations = field(default_factory=dict)
    codings: dict[tuple[str, str], int] = field(default_factory=dict)
    stated: dict[str, float] = field(default_factory=dict)
    costs: _Costs = field(default_factory=dict)
    figures: MetricCounts = field(default_factory=MetricCounts)
    at_s: float = 0.0

    def __bool__(self) -> bool:
        counts = (self.traffic, self.keys, self.imitation, self.codings, self.stated, self.costs)
        return any(counts) or bool(self.figures)


class StatsRecorder:
    """Counts of one edge. ``database``: a connection of its own, which any thread may use.
    ``wall_s``: seconds since the epoch. Not thread-safe."""

    def __init__(self, database: sqlite3.Connection, wall_s: Callable[[], float]) -> None:
        self._database = database
        self._wall_s = wall_s
        self._new = _Unwritten()
        self._gauges: dict[Series, float] = {}
        self._gauges_s = 0.0

    @property
    def figures(self) -> MetricCounts:
        """Counters that are not written yet: add to them."""
        return self._new.figures

    def put_gauges(self, gauges: dict[Series, float]) -> None:
        """What metrics say of now; written where it changed, and every ``GAUGES_EVERY_S``."""
        now_s = self._wall_s()
        if gauges != self._gauges or abs(now_s - self._gauges_s) >= GAUGES_EVERY_S:
            self._new.figures.gauges = self._gauges = dict(gauges)
            self._gauges_s = now_s

    def traffic(self, weak: str) -> Counts:
        """Today's unwritten counts of a weak model: add to its fields."""
        return self._new.traffic.setdefault((self._today(), weak), Counts())

    def imitation(self, label: str) -> Imitation:
        """The same of how it imitates; ``label``: as of ``EdgeModel.weak_label``."""
        return self._new.imitation.setdefault((self._today(), label), Imitation())

    def coded(self, coding: Coding) -> None:
        """A complete answer crossed the link so."""
        place = (self._today(), coding.name.lower())
        self._new.codings[place] = self._new.codings.get(place, 0) + 1

    def cost(self, place: tuple[int, str, str], bits: int, saved_bytes: int) -> None:
        """What a complete answer took. ``place``: its key, model and mode."""
        _add_to(self._new.costs, (self._today(), place), (1, bits, saved_bytes))

    def models_seen(self, stated: Mapping[str, float]) -> None:
        """Weak models that are there, by label, with the bits per byte that their operators
        signed; 0: not stated."""
        self._new.stated |= stated

    def key_used(self, key_id: int, answers: int, bits: int) -> None:
        entry = self._new.keys.setdefault((key_id, self._today()), [0, 0])
        entry[0] += answers
        entry[1] += bits

    def unwritten_bits(self, key_id: int) -> int:
        return self._new.keys.get((key_id, self._today()), [0, 0])[1]

    def flush(self) -> bool:
        """Add all counts to the database; false, with a log line, where it refuses."""
        return self._keep_unless(_write(self._database, self._take()))

    async def flush_aside(self) -> bool:
        """``flush`` with its fsync in another thread; not to be called while one runs."""
        taken = self._take()
        return self._keep_unless(await asyncio.to_thread(_write, self._database, taken))

    def _today(self) -> str:
        return utc_day(self._wall_s())

    def _take(self) -> _Unwritten:
        taken, self._new = self._new, _Unwritten()
        taken.at_s = self._wall_s()
        return taken

    def _keep_unless(self, unwritten: _Unwritten | None) -> bool:
        if unwritten is None:
            return True
        new = self._new
        for place, counts in unwritten.traffic.items():
            new.traffic.setdefault(place, Counts()).add(counts)
        for key_day, (answers, bits) in unwritten.keys.items():
            entry = new.keys.setdefault(key_day, [0, 0])
            entry[0] += answers
            entry[1] += bits
        for place, own in unwritten.imitation.items():
            new.imitation.setdefault(place, Imitation()).add(own.answers, own.text_bytes, own.bits)
        for place, answers in unwritten.codings.items():
            new.codings[place] = new.codings.get(place, 0) + answers
        for cost_place, counted in unwritten.costs.items():
            _add_to(new.costs, cost_place, counted)
        new.stated = unwritten.stated | new.stated
        new.figures.put_back(unwritten.figures)
        return False


def _add_to(costs: _Costs, place: tuple[str, _Place], counted: Sequence[int]) -> None:
    before = costs.get(place, [0, 0, 0])
    costs[place] = [one + more for one, more in zip(before, counted, strict=True)]


def _write(database: sqlite3.Connection, new: _Unwritten) -> _Unwritten | None:
    """What could not be written, or None."""
    if not new:
        return None
    try:
        with transaction(database):
            _add(database, new)
    except sqlite3.Error as error:
        log.error("statistics are not written, kept for the next try: %s", error)
        return new
    return None


def _add(database: sqlite3.Connection, new: _Unwritten) -> None:
    for (day, weak), counts in new.traffic.items():
        database.execute(
            "INSERT INTO traffic VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (day, weak) DO UPDATE"
            " SET answers = answers + excluded.answers,"
            " answer_bytes = answer_bytes + excluded.answer_bytes,"
            " link_bytes = link_bytes + excluded.link_bytes,"
            " tokens = tokens + excluded.tokens",
            (
                day,
                weak,
                counts.answers,
                counts.answer_bytes,
                counts.link_bytes,
                counts.tokens,
            ),
        )
    for (key_id, day), (answers, bits) in new.keys.items():
        database.execute(
            "INSERT INTO key_use VALUES (?, ?, ?, ?) ON CONFLICT (key_id, day) DO UPDATE"
            " SET answers = answers + excluded.answers, bits = bits + excluded.bits",
            (key_id, day, answers, bits),
        )
    for (day, label), own in new.imitation.items():
        database.execute(
            "INSERT INTO imitation VALUES (?, ?, ?, ?, ?) ON CONFLICT (day, weak) DO UPDATE"
            " SET answers = answers + excluded.answers,"
            " text_bytes = text_bytes + excluded.text_bytes, bits = bits + excluded.bits",
            (day, label, own.answers, own.text_bytes, own.bits),
        )
    for (day, coding), answers in new.codings.items():
        database.execute(
            "INSERT INTO codings VALUES (?, ?, ?) ON CONFLICT (day, coding) DO UPDATE"
            " SET answers = answers + excluded.answers",
            (day, coding, answers),
        )
    for (day, place), counted in new.costs.items():
        database.execute(
            "INSERT INTO costs VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (day, key_id, model, mode) DO UPDATE"
            " SET answers = answers + excluded.answers, bits = bits + excluded.bits,"
            " saved_bytes = saved_bytes + excluded.saved_bytes",
            (day, *place, *counted),
        )
    for label, bits_per_byte in new.stated.items():
        database.execute("INSERT OR REPLACE INTO weak_models VALUES (?, ?)", (label, bits_per_byte))
    new.figures.write(database, new.at_s)


def read_stats(state_dir: Path, now_s: float | None = None) -> EdgeStats:
    """Totals, today and every day, from any process; all zero where no edge ever ran.
    Raises NarrowsError."""
    total, today = Counts(), Counts()
    by_day: dict[str, dict[str, Counts]] = {}
    with reading(state_dir) as database:
        if database is None:
            return EdgeStats(total, today, by_day)
        rows = database.execute(
            "SELECT day, weak, answers, answer_bytes, link_bytes, tokens FROM traffic"
            " ORDER BY day, weak"
        ).fetchall()
    day_now = utc_day(datetime.datetime.now(datetime.UTC).timestamp() if now_s is None else now_s)
    for day, weak, *fields in rows:
        counts = Counts(*fields)
        by_day.setdefault(day, {})[weak] = counts
        total.add(counts)
        if day == day_now:
            today.add(counts)
    return EdgeStats(total, today, by_day)


def read_codings(state_dir: Path, now_s: float) -> dict[str, int]:
    """Today's complete answers by how they crossed the link (``Coding``, in lower case); empty
    where no edge ran that counts them. Raises NarrowsError."""
    with reading(state_dir) as database:
        if database is None or not has_table(database, "codings"):
            return {}
        rows = database.execute(
            "SELECT coding, answers FROM codings WHERE day = ? ORDER BY coding",
            (utc_day(now_s),),
        ).fetchall()
    return dict(rows)


def read_costs(state_dir: Path, now_s: float) -> list[dict[str, int | str]]:
    """Today's complete answers by key, model and mode: how many, the bytes of their code length
    and what that saved; none where no edge ran that counts them. Raises NarrowsError."""
    with reading(state_dir) as database:
        if database is None or not has_table(database, "costs"):
            return []
        rows = database.execute(
            "SELECT key_id, model, mode, answers, bits, saved_bytes FROM costs WHERE day = ?"
            " ORDER BY key_id, model, mode",
            (utc_day(now_s),),
        ).fetchall()
    return [
        {
            "key": key,
            "model": model,
            "mode": mode,
            "answers": answers,
            "link_bytes": round(bits / 8),
            "saved_bytes": saved,
        }
        for key, model, mode, answers, bits, saved in rows
    ]
