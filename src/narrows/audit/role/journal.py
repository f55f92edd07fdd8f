"""What an auditor must not forget when it is killed: one SQLite file, one transaction a step.

    rest      the auditor's whole state at a moment when no link was open, and the keys seen
    segment   each segment since, in M's order: entered before it is scored, then its outcome
    credit    each credit, before it is said

After a restart the tape is decoded again from ``rest``, and each of its segments meets its row:
its coin is not drawn again and it is not scored again. A segment that was entered and has no
outcome was being scored when the auditor died; it keeps its link cost for good, so that nobody
gains by killing an auditor whose coin has fallen badly. A segment that is not the one in its row
means another tape, and ends all crediting of the epoch.

Killed at any moment, a transaction is there or it is not; both are states that a run without a
kill goes through.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from narrows.audit.auditor import SegmentOutcome
from narrows.audit.code import Experience, Learned
from narrows.audit.keybook import Use
from narrows.audit.segments import Segment
from narrows.errors import InputError
from narrows.ledger.net import Credit

STOPPED = "the auditor was stopped while it scored this"
KEEP_CREDITS = 1000
Commit = Callable[[sqlite3.Connection], None]

_SCHEMA = """
create table if not exists about (name text primary key, value text not null);
create table if not exists rest (id integer primary key check (id = 1), state text not null);
create table if not exists seen (
    key blob primary key, asked blob not null, over integer not null, tokens text not null);
create table if not exists done (nonce blob primary key);
create table if not exists segment (
    number integer primary key, nonce blob not null, link integer not null,
    answer integer not null, part integer not null, digest blob not null,
    drawn integer not null, outcome text);
create table if not exists credit (
    number integer primary key, account text not null, position integer not null,
    total integer not null, document text not null);
"""


class TapeChanged(InputError):
    """The tape is not the one that was audited before."""


class AuditJournal:
    """One auditor's epoch. ``commit``: how a transaction ends; for tests that kill. Usable from
    several threads. Raises ``InputError`` where the file is another auditor's, or in use."""

    def __init__(
        self, path: Path, identity: str, commit: Commit = sqlite3.Connection.commit
    ) -> None:
        self._commit, self._lock = commit, threading.Lock()
        self._nonce = b""
        self._at = 0
        try:
            self._db = sqlite3.connect(path, timeout=0, check_same_thread=False)
            self._db.execute("pragma locking_mode = exclusive")
            self._db.execute("pragma synchronous = full")
            self._db.executescript(_SCHEMA)
            self._db.execute("insert or ignore into about values ('identity', ?)", [identity])
            self._db.execute("insert or ignore into about values ('sequence', '0')")
            commit(self._db)
            known = self._about("identity")
            self._rows = int(self._db.execute("select count(*) from segment").fetchone()[0])
        except sqlite3.Error as error:
            raise InputError(
                f"cannot use the auditor's journal {path}: {error}",
                "one auditor runs on a journal; a damaged one needs an enrolment of a new epoch",
            ) from error
        if known != identity:
            self._db.close()
            raise InputError(
                f"the journal {path} is of other terms, weights or keys: its bound is not theirs",
                "enrol the auditor with a new epoch",
            )

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _about(self, name: str) -> str:
        return str(self._db.execute("select value from about where name = ?", [name]).fetchone()[0])

    # -- M's order ---------------------------------------------------------------------

    def begin(self, nonce: bytes) -> None:
        """Segments are of this chapter from now on."""
        self._nonce = nonce

    @property
    def behind(self) -> int:
        """Rows that the tape has not come to again."""
        return self._rows - self._at

    def enter(self, segment: Segment, drawn: bool) -> SegmentOutcome | None:
        """As ``AuditMemory``."""
        name = (self._nonce, segment.link, segment.answer, segment.index, segment.digest, drawn)
        with self._lock:
            self._at += 1
            if self._at <= self._rows:
                row = self._db.execute(
                    "select nonce, link, answer, part, digest, drawn, outcome from segment"
                    " where number = ?",
                    [self._at],
                ).fetchone()
                if row is None or tuple(row[:6]) != name:
                    self._at -= 1
                    raise TapeChanged("the tape is not the one that was audited")
                if not drawn:
                    return None
                return _outcome(row[6]) if row[6] else SegmentOutcome(None, 0, STOPPED, None)
            values = (self._at, *name)
            self._db.execute("insert into segment values (?, ?, ?, ?, ?, ?, ?, null)", values)
            self._commit(self._db)
            self._rows = self._at
        return None

    def scored(self, segment: Segment, outcome: SegmentOutcome) -> None:
        """As ``AuditMemory``."""
        with self._lock:
            self._db.execute(
                "update segment set outcome = ? where number = ?", [_text(outcome), self._at]
            )
            self._commit(self._db)

    # -- the rest ----------------------------------------------------------------------

    def rest(self) -> dict[str, Any] | None:
        """The last state that was saved."""
        row = self._db.execute("select state from rest").fetchone()
        return None if row is None else dict(json.loads(row[0]))

    def seen(self) -> Iterator[tuple[bytes, Use]]:
        """All noise keys at that moment."""
        for key, asked, over, tokens in self._db.execute("select * from seen"):
            yield key, Use(asked, json.loads(tokens), bool(over))

    def is_done(self, nonce: bytes) -> bool:
        """Whether the chapter was read to its end, or given up."""
        with self._lock:
            found = self._db.execute("select 1 from done where nonce = ?", [nonce]).fetchone()
        return found is not None

    def save(
        self, state: dict[str, Any], keys: Iterable[tuple[bytes, Use]], done: bytes | None = None
    ) -> None:
        """No link is open: all of it in one transaction, and the rows before are not needed."""
        with self._lock:
            self._db.execute("insert or replace into rest values (1, ?)", [json.dumps(state)])
            self._db.executemany(
                "insert or replace into seen values (?, ?, ?, ?)",
                [(key, use.asked, use.over, json.dumps(use.tokens)) for key, use in keys],
            )
            if done is not None:
                self._db.execute("insert or ignore into done values (?)", [done])
            self._db.execute("delete from segment")
            self._commit(self._db)
            self._rows = self._at = 0

    # -- what is said ------------------------------------------------------------------

    def saying(self, credit: Credit | None) -> int:
        """The number of the next verdict; with its credit, durable before it is said."""
        with self._lock:
            number = int(self._about("sequence")) + 1
            self._db.execute("update about set value = ? where name = 'sequence'", [str(number)])
            if credit is not None:
                row = (number, credit.account, credit.position, credit.total)
                text = json.dumps(credit.document(), sort_keys=True)
                self._db.execute("insert into credit values (?, ?, ?, ?, ?)", [*row, text])
                self._db.execute("delete from credit where number <= ?", [number - KEEP_CREDITS])
            self._commit(self._db)
        return number


def _text(outcome: SegmentOutcome) -> str:
    learned = outcome.learned
    return json.dumps(
        {
            "audit_q16": outcome.audit_q16,
            "off": outcome.off,
            "why": outcome.why,
            "learned": None if learned is None else asdict(learned),
        }
    )


def _outcome(text: str) -> SegmentOutcome:
    row = json.loads(text)
    learned = None if row["learned"] is None else experience_of(row["learned"])
    return SegmentOutcome(row["audit_q16"], row["off"], row["why"], learned)


def experience_of(row: dict[str, Any]) -> Experience:
    """Of ``asdict``; floats come back from JSON as they were."""
    parts = (row["noisy"], row["greedy"])
    noisy, greedy = (Learned(one["log_exponent"], tuple(one["weights"])) for one in parts)
    return Experience(noisy, greedy)
