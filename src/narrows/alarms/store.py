"""``STATE/edge/alarms.db``: alarms and the detectors' evidence, for any process of the operator.

What someone who modifies it can achieve: silence, acknowledge or invent alarms. No budget
depends on it. A command may acknowledge while the edge runs; the edge looks for that.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from narrows.errors import InputError, NarrowsError
from narrows.private import private_folder

MAX_ALARMS = 10_000
"""Rows; beyond them the oldest acknowledged ones go."""
MAX_NOTE_CHARS = 300
_SCHEMA = """
CREATE TABLE IF NOT EXISTS alarms (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    kind TEXT NOT NULL,
    detector TEXT NOT NULL,
    subject INTEGER NOT NULL,
    policy TEXT NOT NULL,
    raised_s INTEGER NOT NULL,
    last_s INTEGER NOT NULL,
    count INTEGER NOT NULL,
    evidence_bits REAL NOT NULL,
    note TEXT NOT NULL,
    sent TEXT NOT NULL,
    acked_s INTEGER,
    acked_by TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS evidence (
    detector TEXT NOT NULL,
    subject INTEGER NOT NULL,
    bits TEXT NOT NULL,  -- a JSON list of numbers
    PRIMARY KEY (detector, subject)
) STRICT, WITHOUT ROWID;
"""
_COLUMNS = (
    "id, kind, detector, subject, policy, raised_s, last_s, count, evidence_bits, note, sent,"
    " acked_s, acked_by"
)
EvidenceRow = tuple[str, int, Sequence[float] | None]


@dataclass(slots=True)
class FiledAlarm:
    """``alarm_id`` 0: not written yet. ``sent``: what became of webhook and command.
    ``acked_s``: None while it is open."""

    alarm_id: int
    kind: str
    detector: str
    subject: int
    policy: str
    raised_s: int
    last_s: int
    count: int
    evidence_bits: float
    note: str
    sent: str = ""
    acked_s: int | None = None
    acked_by: str = ""

    def figures(self) -> dict[str, object]:
        """For machines. ``key``: number of the API key, None where it is about all of them."""
        return {
            "id": self.alarm_id,
            "kind": self.kind,
            "detector": self.detector,
            "key": None if self.subject < 0 else self.subject,
            "policy": self.policy,
            "raised_s": self.raised_s,
            "last_s": self.last_s,
            "count": self.count,
            "evidence_bits": round(self.evidence_bits, 1),
            "note": self.note,
            "sent": self.sent,
            "acked_s": self.acked_s,
            "acked_by": self.acked_by,
        }


def alarms_path(state_dir: Path) -> Path:
    return state_dir / "edge" / "alarms.db"


class AlarmStore:
    """One connection; any thread, one at a time. Methods raise sqlite3.Error."""

    def __init__(self, state_dir: Path) -> None:
        """Made where it is not there. Raises NarrowsError."""
        path = alarms_path(state_dir)
        private_folder(state_dir, "edge")
        try:
            self._database = sqlite3.connect(
                path, isolation_level=None, timeout=10.0, check_same_thread=False
            )
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            with self._transaction():
                for statement in _SCHEMA.split(";\n"):
                    self._database.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise NarrowsError(f"cannot open {path}: {error}") from error
        self._version = -1

    def close(self) -> None:
        self._database.close()

    def write(self, alarms: Sequence[FiledAlarm], evidence: Sequence[EvidenceRow]) -> None:
        """All or nothing; new alarms get their numbers."""
        numbers: list[tuple[FiledAlarm, int]] = []
        with self._transaction():
            for alarm in alarms:
                if alarm.alarm_id:
                    self._database.execute(
                        "UPDATE alarms SET last_s = ?, count = ?, sent = ? WHERE id = ?",
                        (alarm.last_s, alarm.count, alarm.sent, alarm.alarm_id),
                    )
                else:
                    numbers.append((alarm, self._insert(alarm)))
            if numbers:
                self._database.execute(
                    "DELETE FROM alarms WHERE acked_s IS NOT NULL AND id <="
                    " (SELECT max(id) FROM alarms) - ?",
                    (MAX_ALARMS,),
                )
            self._write_evidence(evidence)
        for alarm, number in numbers:
            alarm.alarm_id = number

    def _insert(self, alarm: FiledAlarm) -> int:
        cursor = self._database.execute(
            f"INSERT INTO alarms ({_COLUMNS}) VALUES (NULL{', ?' * 12})",
            (
                alarm.kind,
                alarm.detector,
                alarm.subject,
                alarm.policy,
                alarm.raised_s,
                alarm.last_s,
                alarm.count,
                alarm.evidence_bits,
                alarm.note[:MAX_NOTE_CHARS],
                alarm.sent,
                alarm.acked_s,
                alarm.acked_by,
            ),
        )
        return int(cursor.lastrowid or 0)

    def _write_evidence(self, rows: Sequence[EvidenceRow]) -> None:
        for detector, subject, bits in rows:
            if bits is None:
                self._database.execute(
                    "DELETE FROM evidence WHERE detector = ? AND subject = ?", (detector, subject)
                )
            else:
                self._database.execute(
                    "INSERT OR REPLACE INTO evidence VALUES (?, ?, ?)",
                    (detector, subject, json.dumps(list(bits))),
                )

    def evidence(self) -> Iterator[tuple[str, int, list[float]]]:
        """What was written; rows that are none are left out."""
        rows = self._database.execute("SELECT detector, subject, bits FROM evidence").fetchall()
        for detector, subject, text in rows:
            try:
                bits = json.loads(text)
            except (ValueError, RecursionError):
                continue
            if isinstance(bits, list) and all(type(one) is float for one in bits):
                yield detector, subject, bits

    def changed(self) -> bool:
        """Whether another connection has written since the last call."""
        version = int(self._database.execute("PRAGMA data_version").fetchone()[0])
        before, self._version = self._version, version
        return version != before

    def look_again(self) -> None:
        """``changed`` is true next: what was found to have changed could not be read."""
        self._version = -1

    def alarms(self, open_only: bool = False) -> list[FiledAlarm]:
        """Newest first."""
        return _alarms(self._database, open_only)

    def acknowledge(self, numbers: Sequence[int] | None, by: str, now_s: int) -> list[int]:
        """End these open alarms, or all; those that were open. Raises InputError for others."""
        with self._transaction():
            open_now = [alarm.alarm_id for alarm in _alarms(self._database, True)]
            chosen = open_now if numbers is None else list(dict.fromkeys(numbers))
            if unknown := sorted(set(chosen).difference(open_now)):
                raise InputError(
                    f"no open alarm has the number {unknown[0]}", "'narrows alarms list' shows them"
                )
            self._database.executemany(
                "UPDATE alarms SET acked_s = ?, acked_by = ? WHERE id = ?",
                [(now_s, by, number) for number in chosen],
            )
        return chosen

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise


def read_alarms(state_dir: Path, open_only: bool = False) -> list[FiledAlarm]:
    """Of any process, newest first; none where no edge ever kept them. Raises NarrowsError."""
    path = alarms_path(state_dir)
    if not path.exists():
        return []
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            return _alarms(database, open_only)
        finally:
            database.close()
    except sqlite3.Error as error:
        raise NarrowsError(f"cannot read {path}: {error}") from error


def _alarms(database: sqlite3.Connection, open_only: bool) -> list[FiledAlarm]:
    where = "WHERE acked_s IS NULL" if open_only else ""
    rows = database.execute(
        f"SELECT {_COLUMNS} FROM alarms {where} ORDER BY id DESC LIMIT {MAX_ALARMS}"
    )
    return [FiledAlarm(*row) for row in rows]
