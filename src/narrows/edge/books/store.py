"""``STATE/edge``: the edge's database and its secret.

What someone who modifies them can achieve: with ``edge.db``, give himself an API key or
falsify the statistics (neither moves the budget, which is the gate's); with ``secret``,
foresee the noise of coming answers, which loses no confidentiality but the trusted coins.

WAL with synchronous=FULL: a committed key or count survives a power cut. Every process that
opens the database may create it; the schema's version is checked each time.
"""

from __future__ import annotations

import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from narrows.durable import write_first
from narrows.errors import NarrowsError
from narrows.private import private_folder

SCHEMA_VERSION = 1
SECRET_BYTES = 32

_SCHEMA = """
CREATE TABLE api_keys (
    id INTEGER PRIMARY KEY AUTOINCREMENT,  -- scopes on the link, never used twice
    name TEXT NOT NULL,
    hash BLOB NOT NULL UNIQUE CHECK (length(hash) = 32),
    hint TEXT NOT NULL,
    created_s INTEGER NOT NULL,
    revoked_s INTEGER,
    share_bytes_per_day INTEGER CHECK (share_bytes_per_day > 0)
) STRICT;
CREATE TABLE key_use (
    key_id INTEGER NOT NULL,
    day TEXT NOT NULL,
    answers INTEGER NOT NULL,
    bits INTEGER NOT NULL,
    PRIMARY KEY (key_id, day)
) STRICT, WITHOUT ROWID;
CREATE TABLE traffic (
    day TEXT NOT NULL,
    weak TEXT NOT NULL,
    answers INTEGER NOT NULL,
    answer_bytes INTEGER NOT NULL,
    link_bytes INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (day, weak)
) STRICT, WITHOUT ROWID;
"""

# What an older narrows neither reads nor misses (it holds keys to their shares of a day, and to no
# other limit): made where they are not there, and no reason for another version. 800 days of
# ``imitation``, ``codings`` and ``costs`` are kept.
_ADDED = """
CREATE TABLE IF NOT EXISTS key_limits (
    key_id INTEGER PRIMARY KEY,
    rpm INTEGER CHECK (rpm > 0),
    tpm INTEGER CHECK (tpm > 0),
    concurrent INTEGER CHECK (concurrent > 0),
    share_bytes_per_month INTEGER CHECK (share_bytes_per_month > 0)
) STRICT;
CREATE TABLE IF NOT EXISTS file_keys (
    key_id INTEGER PRIMARY KEY,
    withdrawn INTEGER NOT NULL  -- revoked since the file names it no longer
) STRICT;
CREATE TABLE IF NOT EXISTS imitation (
    day TEXT NOT NULL,
    weak TEXT NOT NULL,  -- name and the digest's first eight digits
    answers INTEGER NOT NULL,
    text_bytes INTEGER NOT NULL,
    bits INTEGER NOT NULL,
    PRIMARY KEY (day, weak)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS codings (
    day TEXT NOT NULL,
    coding TEXT NOT NULL,  -- how answers crossed the link
    answers INTEGER NOT NULL,
    PRIMARY KEY (day, coding)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS figures (
    name TEXT NOT NULL,
    labels TEXT NOT NULL,  -- a JSON object of texts
    value REAL NOT NULL,
    gauge_s REAL,  -- when a gauge was put, null for a counter
    PRIMARY KEY (name, labels)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS costs (
    day TEXT NOT NULL,
    key_id INTEGER NOT NULL,
    model TEXT NOT NULL,
    mode TEXT NOT NULL,  -- what was done to send less
    answers INTEGER NOT NULL,
    bits INTEGER NOT NULL,
    saved_bytes INTEGER NOT NULL,
    PRIMARY KEY (day, key_id, model, mode)
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS weak_models (
    weak TEXT PRIMARY KEY,
    stated_bits_per_byte REAL NOT NULL  -- 0: not stated
) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS drift_bounds (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    worse_percent REAL NOT NULL,
    days INTEGER NOT NULL,
    min_bytes INTEGER NOT NULL
) STRICT;
DELETE FROM imitation WHERE day < date('now', '-800 days');
DELETE FROM codings WHERE day < date('now', '-800 days');
DELETE FROM costs WHERE day < date('now', '-800 days');
"""


def edge_dir(state_dir: Path) -> Path:
    return state_dir / "edge"


def database_path(state_dir: Path) -> Path:
    return edge_dir(state_dir) / "edge.db"


def open_database(state_dir: Path) -> sqlite3.Connection:
    """The edge's database, made where there is none. Autocommit; use ``transaction``."""
    path = database_path(state_dir)
    private_folder(state_dir, "edge")
    try:
        database = sqlite3.connect(
            path, isolation_level=None, timeout=10.0, check_same_thread=False
        )
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        _upgrade(database, path)
    except (OSError, sqlite3.Error) as error:
        raise NarrowsError(f"cannot open {path}: {error}") from error
    return database


def _upgrade(database: sqlite3.Connection, path: Path) -> None:
    with transaction(database):
        version = int(database.execute("PRAGMA user_version").fetchone()[0])
        if version == 0:
            for statement in _SCHEMA.split(";"):
                database.execute(statement)
            database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        elif version != SCHEMA_VERSION:
            raise NarrowsError(
                f"{path} has schema {version}, this narrows knows {SCHEMA_VERSION}",
                "use the narrows that wrote it, or a newer one",
            )
        for statement in _ADDED.split(";"):
            database.execute(statement)


@contextmanager
def reading(state_dir: Path) -> Iterator[sqlite3.Connection | None]:
    """The database for reading alone, in any process; None where no edge ever ran. Raises
    NarrowsError, also for an sqlite3.Error from inside."""
    path = database_path(state_dir)
    if not path.exists():
        yield None
        return
    try:
        database = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=10.0)
        try:
            yield database
        finally:
            database.close()
    except sqlite3.Error as error:
        raise NarrowsError(f"cannot read {path}: {error}") from error


def has_table(database: sqlite3.Connection, name: str) -> bool:
    """Whether the edge that was here last knew the table."""
    found = database.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (name,))
    return bool(found.fetchone()[0])


@contextmanager
def transaction(database: sqlite3.Connection) -> Iterator[None]:
    """All or nothing; takes the write lock at once, so that it cannot fail half way on it."""
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
        database.execute("COMMIT")
    except BaseException:
        if database.in_transaction:  # a full disk may have ended it; a failed COMMIT does not
            database.execute("ROLLBACK")
        raise


def load_secret(state_dir: Path) -> bytes:
    """The edge's 32 secret bytes, made on the first call; two starting edges agree on them."""
    path = private_folder(state_dir, "edge") / "secret"
    if not path.exists():
        write_first(path, secrets.token_bytes(SECRET_BYTES), 0o600)
    secret = path.read_bytes()
    if len(secret) != SECRET_BYTES:
        raise NarrowsError(f"{path} is not {SECRET_BYTES} bytes", "delete it; a new one is made")
    return secret
