"""A database that refuses a write keeps working once it takes them again."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from narrows.edge.books.stats import StatsRecorder
from narrows.edge.books.store import open_database, transaction


def test_a_commit_that_fails_leaves_no_transaction_open(tmp_path: Path) -> None:
    database = open_database(tmp_path)
    database.executescript(
        "PRAGMA foreign_keys=ON; CREATE TABLE a (n INTEGER PRIMARY KEY);"
        "CREATE TABLE b (n REFERENCES a (n) DEFERRABLE INITIALLY DEFERRED);"
    )
    with pytest.raises(sqlite3.IntegrityError), transaction(database):
        database.execute("INSERT INTO b VALUES (1)")  # refused by COMMIT, not here
    stats = StatsRecorder(database, lambda: 0.0)
    stats.traffic("weak").answers = 1
    assert stats.flush()
    database.close()
