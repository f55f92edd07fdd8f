"""The ledger in one SQLite file: write-ahead log, synchronous=FULL, one transaction a write.

What someone who modifies ledger.db can achieve, without the log key: make the gate refuse to
send. Changed leaves do not hash to the signed head; an older file is behind the witness.

Durability: in WAL mode with synchronous=FULL each COMMIT returns after an fsync of the WAL;
SQLite fsyncs the directory when it makes the WAL. The file's own directory entry is synced
here, once, at creation. Residual risk: a disk that acknowledges fsync and loses the write is
a rollback, which the witness catches.

After any error the connection is dropped and opened again, so that what is read next comes
from the file, through SQLite's recovery, and not from a half-finished transaction. A COMMIT
whose fsync failed is still read back, from the kernel's memory, and Linux reports such a loss
once: a later fsync of the same file succeeds without it. So before anything is read, all that
the log holds is written anew into the database and synced (``make_durable``); until that works
there is no connection, and no lease.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from narrows.durable import sync_folder
from narrows.ledger.stores.store import ConflictError, Head, Snapshot, StoreError

SCHEMA_VERSION = 1
# What a damaged file makes sqlite3 raise: its message may quote the file, which is then no UTF-8.
FILE_ERRORS = (sqlite3.Error, UnicodeDecodeError)
BUSY_TIMEOUT_S = 5.0
_LOCKED = ("SQLITE_BUSY", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_LOCKED")

_ONE_ROW = "id INTEGER PRIMARY KEY CHECK (id = 1), size INTEGER NOT NULL"
_SCHEMA = f"""
CREATE TABLE leaf (position INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE head ({_ONE_ROW}, note BLOB NOT NULL) STRICT;
CREATE TABLE cosigned ({_ONE_ROW}, note BLOB NOT NULL) STRICT;
CREATE TABLE snapshot ({_ONE_ROW}, data BLOB NOT NULL, frontier BLOB NOT NULL) STRICT;
INSERT INTO head VALUES (1, 0, x'');
"""
_PUT_COSIGNED = (
    "INSERT INTO cosigned VALUES (1, ?, ?) ON CONFLICT (id) DO UPDATE"
    " SET size = excluded.size, note = excluded.note WHERE excluded.size > cosigned.size"
)
# Version n to n + 1, applied in one transaction together with the version's new number.
_UPGRADES: dict[int, str] = {}

Connect = Callable[[Path, bool], sqlite3.Connection]


def connect(path: Path, read_only: bool) -> sqlite3.Connection:
    """A connection without implicit transactions; ``read_only`` never makes a file."""
    mode = "ro" if read_only else "rw"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(
        uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
    except FILE_ERRORS:
        connection.close()  # the file is damaged: hold no lock on it
        raise
    return connection


def make_durable(connection: sqlite3.Connection, wait_s: float = 0.0) -> bool:
    """Write the whole write-ahead log into the database, sync it, and start the log over. False
    where another connection is in the way for ``wait_s``; while it waits, no one can write.
    Errors: ``FILE_ERRORS``, where a sync fails."""
    connection.execute(f"PRAGMA busy_timeout = {int(wait_s * 1000)}")
    busy, *_ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.execute(f"PRAGMA busy_timeout = {int(BUSY_TIMEOUT_S * 1000)}")
    return not busy


def checked(rows: list[Any], types: tuple[type, ...], path: Path) -> list[Any]:
    """``rows``, whose columns are of exactly these ``types``. STRICT is checked when a row is
    written, not when it is read: a damaged file can hold anything. Errors: ``StoreError``."""
    if any(tuple(map(type, row)) != types for row in rows):
        raise StoreError(f"{path} is damaged: it holds values of another kind")
    return rows


def create(path: Path) -> None:
    """Make an empty ledger file, readable by its owner only. Errors: ``StoreError``."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreError(f"cannot make {path}: {error.strerror}") from error
    try:
        connection = connect(path, read_only=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(
                f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT"
            )
        finally:
            connection.close()
        sync_folder(path.parent)
    except (OSError, *FILE_ERRORS) as error:
        remove(path)
        raise StoreError(f"cannot make {path}: {error}") from error


def remove(path: Path) -> None:
    """Take away a file that was begun and not finished, with SQLite's files beside it."""
    for suffix in ("", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


class SqliteStore:
    """A ``Store`` in one file. ``connect_to`` is replaced by tests that inject faults."""

    shared = False

    def __init__(self, path: Path, read_only: bool = False, connect_to: Connect = connect) -> None:
        self._path = path
        self._read_only = read_only
        self._connect = connect_to
        self._connection: sqlite3.Connection | None = None
        self._doubtful = False
        if not path.is_file():
            raise StoreError(f"there is no ledger at {path}")
        self._upgrade()

    def head(self) -> Head | None:
        rows = self._query("SELECT size, note FROM head WHERE id = 1", types=(int, bytes))
        if not rows:
            raise StoreError(f"{self._path} has no head")
        size, note = rows[0]
        return Head(size, note) if size else None

    def leaves(self, start: int, stop: int) -> list[bytes]:
        rows = self._query(
            "SELECT data FROM leaf WHERE position >= ? AND position < ? ORDER BY position",
            (start, stop),
            (bytes,),
        )
        if len(rows) != stop - start:
            raise StoreError(f"leaves are missing between {start} and {stop}")
        return [data for (data,) in rows]

    def append(
        self,
        expected_size: int,
        leaves: Sequence[bytes],
        note: bytes,
        snapshot: Snapshot | None = None,
        cosigned: Head | None = None,
        *,
        expected_note: bytes | None = None,
    ) -> None:
        size = expected_size + len(leaves)
        connection = self._open()
        try:
            connection.execute("BEGIN IMMEDIATE")
            # Compare and swap in one statement: between a SELECT and an UPDATE another process
            # could append, and both would grant the same bytes.
            swapped = connection.execute(
                "UPDATE head SET size = ?, note = ?"
                " WHERE id = 1 AND size = ? AND note = coalesce(?, note)",
                (size, note, expected_size, expected_note),
            ).rowcount
            if swapped != 1:
                connection.execute("ROLLBACK")
                raise ConflictError("another process has appended to the ledger")
            connection.executemany(
                "INSERT INTO leaf VALUES (?, ?)", enumerate(leaves, expected_size)
            )
            if snapshot is not None:
                connection.execute(
                    "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?)",
                    (snapshot.size, snapshot.data, b"".join(snapshot.frontier)),
                )
            if cosigned is not None:
                connection.execute(_PUT_COSIGNED, (cosigned.size, cosigned.note))
            connection.execute("COMMIT")
        except FILE_ERRORS as error:
            raise self._failed("append to", error) from error

    def cosigned(self) -> bytes | None:
        rows = self._query("SELECT note FROM cosigned WHERE id = 1", types=(bytes,))
        return rows[0][0] if rows else None

    def put_cosigned(self, cosigned: Head) -> None:
        self._query(_PUT_COSIGNED, (cosigned.size, cosigned.note))

    def snapshot(self) -> Snapshot | None:
        rows = self._query(
            "SELECT size, data, frontier FROM snapshot WHERE id = 1", types=(int, bytes, bytes)
        )
        if not rows:
            return None
        size, data, joined = rows[0]
        if len(joined) % 32:
            raise StoreError("the snapshot's frontier is torn")
        return Snapshot(size, data, tuple(joined[i : i + 32] for i in range(0, len(joined), 32)))

    def backup(self, target: Path) -> None:
        """A consistent copy while others write (SQLite's online backup), synced to disk. One
        that fails leaves no file."""
        create(target)
        try:
            copy = connect(target, read_only=False)
            try:
                self._open().backup(copy)
                make_durable(copy)  # close() would keep quiet about a sync that failed
            finally:
                copy.close()
        except FILE_ERRORS as error:
            remove(target)
            raise self._failed("back up", error) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            try:
                self._connection = self._connect(self._path, self._read_only)
                # At the start another process, if there is one, vouches for what it wrote.
                wait_s = BUSY_TIMEOUT_S if self._doubtful else 0.0
                durable = self._read_only or make_durable(self._connection, wait_s)
            except FILE_ERRORS as error:
                raise self._failed("open", error) from error
            if self._doubtful and not durable:
                raise self._failed("sync", TimeoutError("another process is using it"))
            self._doubtful = False
        return self._connection

    def _query(
        self,
        statement: str,
        values: tuple[object, ...] = (),
        types: tuple[type, ...] = (),
    ) -> list[Any]:
        """``types``: of the columns, checked where they are given."""
        try:
            rows = self._open().execute(statement, values).fetchall()
        except FILE_ERRORS as error:
            raise self._failed("use", error) from error
        return checked(rows, types, self._path) if types else rows

    def _failed(self, verb: str, error: Exception) -> StoreError:
        # A lock that was not to be had wrote nothing; anything else may have.
        self._doubtful |= getattr(error, "sqlite_errorname", "") not in _LOCKED
        try:
            self.close()
        except sqlite3.Error:
            self._connection = None  # a connection that cannot be closed is not used again
        return StoreError(f"cannot {verb} {self._path}: {error}")

    def _upgrade(self) -> None:
        """Bring an older schema to this one, a version at a time; refuse a newer one."""
        ((version,),) = self._query("PRAGMA user_version", types=(int,))
        if version == SCHEMA_VERSION:
            return
        if not isinstance(version, int) or not 1 <= version < SCHEMA_VERSION or self._read_only:
            raise StoreError(
                f"{self._path} has schema version {version}, this narrows knows {SCHEMA_VERSION}",
                "use the narrows that wrote it, or open it once for writing to upgrade",
            )
        for step in range(version, SCHEMA_VERSION):
            try:
                self._open().executescript(
                    f"BEGIN IMMEDIATE; {_UPGRADES[step]} PRAGMA user_version = {step + 1}; COMMIT"
                )
            except FILE_ERRORS as error:
                raise self._failed("upgrade", error) from error
