"""SQLite under the conformance suite, and under faults of its own: torn write-ahead logs, a full
disk in the middle of a write, errors from COMMIT, files that cannot be written."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ledger import conformance
from ledger.ledger_helpers import Deployment, FakeClock, lease, make_keys
from narrows.errors import BudgetError
from narrows.ledger.api import Denied, Lease
from narrows.ledger.office.verify import verify_log, verify_path
from narrows.ledger.stores import sqlite as sqlite_store
from narrows.ledger.stores.sqlite import SCHEMA_VERSION, SqliteStore
from narrows.ledger.stores.store import Head, StoreError


@dataclass
class SqliteCase:
    deployment: Deployment

    def open(self) -> SqliteStore:
        return self.deployment.store(read_only=False)


@pytest.fixture(scope="module")
def memory() -> Iterator[Path]:
    """A folder in memory where there is one: these tests inject faults, they need no disk."""
    parent = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def template(memory: Path) -> Path:
    made = Deployment.create(memory / "template")
    conformance.prepare(made)
    made.close()
    return made.folder


@pytest.fixture
def make_case(memory: Path, template: Path) -> Iterator[object]:
    folders: list[Path] = []

    def make() -> SqliteCase:
        folders.append(Path(tempfile.mkdtemp(dir=memory)) / "s")
        shutil.copytree(template, folders[-1])
        return SqliteCase(Deployment(folders[-1], FakeClock(), make_keys(1, 3), 2, 1))

    yield make
    for folder in folders:
        shutil.rmtree(folder.parent)


class TestSqlite(conformance.StoreTests):
    """The suite that every store has to pass, on SQLite."""


class FaultyConnection(sqlite3.Connection):
    """Raises at COMMIT, before or after it was done."""

    fault = ""

    def execute(self, statement: str, *values: object) -> sqlite3.Cursor:  # type: ignore[override]
        kind = FaultyConnection.fault
        if statement != "COMMIT" or not kind:
            return super().execute(statement, *values)  # type: ignore[arg-type]
        FaultyConnection.fault = ""
        if kind == "persisted":
            super().execute(statement)
        raise sqlite3.OperationalError("disk I/O error")


def _connect_faulty(path: Path, read_only: bool) -> sqlite3.Connection:
    return sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, factory=FaultyConnection
    )


@pytest.mark.parametrize("kind", ["failed", "persisted"])
def test_an_errored_commit_has_an_unknown_outcome_that_the_id_resolves(
    make_case, kind: str
) -> None:  # type: ignore[no-untyped-def]
    deployment = make_case().deployment
    store = SqliteStore(deployment.db, connect_to=_connect_faulty)
    ledger = deployment.open(store=store)
    lease(ledger, 1)
    size = store.head().size  # type: ignore[union-attr]
    FaultyConnection.fault = kind
    denied = ledger.acquire("answers", 100)
    assert isinstance(denied, Denied)
    assert denied.reason == "store"
    got = lease(ledger, 100)
    ids = [leaf for leaf in store.leaves(size, store.head().size) if b'"t":"lease"' in leaf]  # type: ignore[union-attr]
    assert len(ids) == 1, "the same lease, not a second one"
    assert got.lease_id.hex().encode() in ids[0]
    ledger.close()


def test_a_torn_write_ahead_log_loses_whole_appends_only(make_case, memory: Path) -> None:  # type: ignore[no-untyped-def]
    """Cut the WAL at every frame, and inside frames: each prefix is a valid earlier log, and the
    witness refuses every one that lost a lease which was handed out."""
    deployment = make_case().deployment
    ledger = deployment.open()
    world = conformance.World()
    sizes = {}
    for _ in range(4):
        got = lease(ledger, 100)
        world.send(got, 100)
        sizes[deployment.store().head().size] = world.sent_bytes  # type: ignore[union-attr]
    wal = deployment.db.with_name("ledger.db-wal").read_bytes()
    main = deployment.db.read_bytes()
    witnessed = max(sizes)
    seen = set()
    cuts = {*range(0, len(wal), 4120 // 2), len(wal) - 1, 31, 33}
    for cut in sorted(cuts):
        folder = Path(tempfile.mkdtemp(dir=memory))
        (folder / "ledger.db").write_bytes(main)
        (folder / "ledger.db-wal").write_bytes(wal[:cut])
        store = SqliteStore(folder / "ledger.db")
        try:
            verified = verify_log(store)
        except BudgetError:
            assert store.head() is None
            continue
        finally:
            store.close()
        seen.add(verified.size)
        assert verified.size <= witnessed
        if verified.size < witnessed:
            torn = Deployment(deployment.folder, deployment.clock, deployment.keys, 2, 1)
            opened = torn.open(store=SqliteStore(folder / "ledger.db"))
            denied = opened.acquire("answers", 1)
            assert isinstance(denied, Denied)
            assert denied.reason == "behind"
        shutil.rmtree(folder)
    assert len(seen) >= 4
    ledger.close()


_FULL = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from ledger.ledger_helpers import *
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
deployment = Deployment(Path(sys.argv[1]), FakeClock(), make_keys(1, 3), 2, 1)
ledger = deployment.open()
sent = ledger.acquire("answers", 10).size_bytes
wal = deployment.db.with_name("ledger.db-wal").stat().st_size
resource.setrlimit(resource.RLIMIT_FSIZE, (wal + int(sys.argv[2]), resource.RLIM_INFINITY))
reasons = []
for _ in range(3):
    got = ledger.acquire("answers", 10)
    reasons.append(getattr(got, "reason", "granted"))
    sent += getattr(got, "size_bytes", 0)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
after = ledger.acquire("answers", 10)
sent += getattr(after, "size_bytes", 0)
print(",".join(reasons), getattr(after, "reason", "granted"), sent)
"""


@pytest.mark.parametrize("room", [0, 1, 24, 4096, 4119, 4120, 9000, 20000])
def test_a_disk_that_fills_up_in_the_middle_of_a_write(make_case, room: int) -> None:  # type: ignore[no-untyped-def]
    """The kernel cuts the WAL's write short at a byte offset (RLIMIT_FSIZE)."""
    deployment = make_case().deployment
    tests = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(deployment.folder), str(room), tests],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    reasons, after, sent = done.stdout.split()
    assert set(reasons.split(",")) <= {"granted", "store", "witness"}
    assert reasons != "granted,granted,granted"
    assert after == "granted", "it recovers when there is room again"
    verified = verify_path(deployment.folder)
    counted = verified.balances.spent_bytes + verified.balances.outstanding_bytes
    assert int(sent) <= counted <= conformance.CAP_BYTES


def test_a_store_that_cannot_be_written(make_case) -> None:  # type: ignore[no-untyped-def]
    deployment = make_case().deployment
    ledger = deployment.open(store=deployment.store(read_only=True))
    denied = ledger.acquire("answers", 1)
    assert isinstance(denied, Denied)
    assert denied.reason == "store"
    assert verify_path(deployment.folder).leases == 0


@pytest.mark.parametrize("damage", ["leaf", "head", "snapshot", "note", "size", "garbage", "empty"])
def test_changed_files_are_refused(make_case, damage: str) -> None:  # type: ignore[no-untyped-def]
    """Whoever modifies ledger.db without the log key can stop the gate, nothing else."""
    deployment = make_case().deployment
    with_leases = deployment.open()
    got = lease(with_leases, 300)
    with_leases.close()
    statements = {
        "leaf": f"UPDATE leaf SET data = CAST(replace(CAST(data AS TEXT), '\"bytes\":300', "
        f"'\"bytes\":100') AS BLOB) WHERE CAST(data AS TEXT) LIKE '%{got.lease_id.hex()}%'",
        "head": "UPDATE head SET size = size - 1",
        "snapshot": "INSERT INTO snapshot VALUES (1, 2, x'7b7d', zeroblob(32))",
        "note": "UPDATE head SET note = CAST(replace(CAST(note AS TEXT), '300', '100') AS BLOB)",
        "size": "DELETE FROM leaf WHERE position = 1",
    }
    if damage in statements:
        with sqlite3.connect(deployment.db) as db:
            assert db.execute(statements[damage]).rowcount == 1
        db.close()
    else:
        deployment.db.write_bytes(os.urandom(8192) if damage == "garbage" else b"")
    with pytest.raises(BudgetError):
        deployment.open().acquire("answers", 1)


def test_newer_schemas_are_refused_and_older_ones_upgraded(make_case, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    deployment = make_case().deployment
    with sqlite3.connect(deployment.db) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    with pytest.raises(StoreError, match="schema version"):
        deployment.store(read_only=False)
    # what the next version will do: a step, and the number, in one transaction
    monkeypatch.setattr(sqlite_store, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    step = {SCHEMA_VERSION + 1: "CREATE TABLE extra (id INTEGER) STRICT;"}
    monkeypatch.setattr(sqlite_store, "_UPGRADES", step)
    with pytest.raises(StoreError):
        deployment.store(read_only=True)
    store = deployment.store(read_only=False)
    assert isinstance(store.head(), Head)
    store.close()
    with sqlite3.connect(deployment.db) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 2,)
        assert db.execute("SELECT count(*) FROM extra").fetchone() == (0,)
    db.close()
    deployment.store(read_only=True).close()


def test_backups_are_consistent_while_a_gate_writes(make_case, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    deployment = make_case().deployment
    ledger = deployment.open()
    for number in range(5):
        got = lease(ledger, 10)
        ledger.settle(got, number)
        store = deployment.store()
        store.backup(tmp_path / f"{number}.db")
        store.close()
        verified = verify_path(tmp_path / f"{number}.db")
        assert verified.size == ledger.state().size
        with pytest.raises(StoreError):
            deployment.store().backup(tmp_path / f"{number}.db")
    assert isinstance(ledger.acquire("answers", 1), Lease)
    ledger.close()
