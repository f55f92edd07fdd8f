"""Damaged files and failing disks, as the kernel makes them: bytes that changed, an fsync that
fails, a file system that is full. Nothing is granted on what is not there, and a person gets a
sentence, not a traceback."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ledger.ledger_helpers import Deployment, lease, served
from narrows.errors import BudgetError
from narrows.ledger.api import Denied, Lease
from narrows.ledger.limits import Limits
from narrows.ledger.office.balances import current_balances
from narrows.ledger.office.setup import open_witness
from narrows.ledger.office.verify import verify_log, verify_path
from narrows.ledger.stores import sqlite as sqlite_store
from narrows.ledger.stores.sqlite import SqliteStore

SEED = 20261125


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment.create(tmp_path / "state")
    with made.ready(Limits(1000)) as ledger:
        ledger.settle(lease(ledger, 100), 40)
    yield made
    made.close()


# -- bytes that changed ----------------------------------------------------------------


def _damaged(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 3, 40])):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed[: rng.randrange(len(changed))] if rng.random() < 0.1 else changed)


def _closed_bytes(path: Path) -> bytes:
    """The file alone, without a log beside it."""
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    return path.read_bytes()


def test_any_bytes_of_a_ledger_verify_as_they_were_or_are_refused(
    deployment: Deployment, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    rng, data, refused = random.Random(SEED), _closed_bytes(deployment.db), 0
    was = verify_path(deployment.db)
    for number in range(400):
        path = tmp_path / f"{number}.db"
        path.write_bytes(_damaged(data, rng))
        try:
            found = verify_path(path)
        except BudgetError:
            refused += 1
        else:  # the bytes were of no use, or a cosignature's row is gone
            assert (found.root, found.balances, found.log_vkey) == (
                was.root, was.balances, was.log_vkey,
            )  # fmt: skip
            assert found.cosigned_size in (0, was.cosigned_size)
    assert refused > 50


def test_any_bytes_of_a_witness_answer_rightly_or_are_refused(
    deployment: Deployment, tmp_path: Path
) -> None:
    print(f"seed {SEED}")
    deployment.close()
    rng, refused = random.Random(SEED), 0
    data = _closed_bytes(deployment.folder / "witness" / "witness.db")
    for number in range(80):
        folder = tmp_path / str(number)
        shutil.copytree(deployment.folder, folder)
        (folder / "witness" / "witness.db").write_bytes(_damaged(data, rng))
        copy = Deployment(folder, deployment.clock, deployment.keys, 2, 1)
        try:
            witness = open_witness(folder, deployment.clock)
        except BudgetError:
            refused += 1
            continue
        ledger = copy.open(witness=witness)
        got = ledger.acquire("answers", 10)
        refused += isinstance(got, Denied)
        ledger.close()
        witness.close()
    assert refused > 10


def test_values_of_another_kind_are_damage(deployment: Deployment, tmp_path: Path) -> None:
    """STRICT is checked as rows are written; a file made without it can hold anything."""
    with sqlite3.connect(deployment.db) as db:
        rows = db.execute("SELECT position, data FROM leaf").fetchall()
        size, note = db.execute("SELECT size, note FROM head").fetchone()
    db.close()
    makers: list[Callable[[sqlite3.Connection], object]] = [
        lambda db: db.execute("UPDATE leaf SET data = CAST(data AS TEXT)"),
        lambda db: db.execute("UPDATE leaf SET data = NULL WHERE position = 1"),
        lambda db: db.execute("UPDATE head SET size = 'three'"),
        lambda db: db.execute("UPDATE head SET note = 5"),
        lambda db: db.execute("DELETE FROM head"),
        lambda db: db.execute("INSERT INTO cosigned VALUES (1, 3, 'words')"),
        lambda db: db.execute("INSERT INTO snapshot VALUES (1, 2.5, x'', x'')"),
    ]
    for number, damage in enumerate([lambda db: None, *makers]):
        path = tmp_path / f"loose-{number}.db"
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE leaf (position, data)")
            db.execute("CREATE TABLE head (id, size, note)")
            db.execute("CREATE TABLE cosigned (id, size, note)")
            db.execute("CREATE TABLE snapshot (id, size, data, frontier)")
            db.executemany("INSERT INTO leaf VALUES (?, ?)", rows)
            db.execute("INSERT INTO head VALUES (1, ?, ?)", (size, note))
            db.execute("PRAGMA user_version = 1")
            damage(db)
        db.close()
        store = SqliteStore(path, read_only=True)
        if number == 0:
            assert verify_log(store).size == size
            store.close()
            continue
        with pytest.raises(BudgetError):
            verify_log(store) if number < len(makers) else store.snapshot()
        store.close()


def test_a_schema_that_is_no_text_is_damage(deployment: Deployment) -> None:
    """sqlite3 quotes the file in its error, and then cannot decode what it quotes."""
    data = _closed_bytes(deployment.db)
    assert data.count(b"CREATE TABLE leaf") == 1
    for words in (b"CREATE \xff\xfeBLE leaf", b"CREATE TABLE \xff\xff\xff\xff"):
        deployment.db.write_bytes(data.replace(b"CREATE TABLE leaf", words))
        with pytest.raises(BudgetError):
            verify_path(deployment.db)
        with pytest.raises(BudgetError):
            deployment.open()


# -- an fsync that fails ---------------------------------------------------------------

_SYS_FSYNC, _SYS_FDATASYNC = {"x86_64": (74, 75), "aarch64": (82, 83)}.get(
    os.uname().machine, (-1, -1)
)
_PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS, _SECCOMP_MODE_FILTER = 22, 38, 2


def _fail_every_fsync() -> None:
    """From here on, in this thread alone, fsync and fdatasync fail with EIO: a seccomp filter."""

    def step(code: int, jump_true: int, jump_false: int, value: int) -> bytes:
        return struct.pack("HBBI", code, jump_true, jump_false, value)

    program = b"".join(
        [
            step(0x20, 0, 0, 0),  # the number of the system call
            step(0x15, 1, 0, _SYS_FSYNC),
            step(0x15, 0, 1, _SYS_FDATASYNC),
            step(0x06, 0, 0, 0x00050000 | errno.EIO),
            step(0x06, 0, 0, 0x7FFF0000),
        ]
    )

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.c_void_p))

    steps = ctypes.create_string_buffer(program, len(program))
    filter_ = Program(len(program) // 8, ctypes.addressof(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(
        _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")
    with tempfile.TemporaryFile() as file, pytest.raises(OSError, match="Input/output"):
        os.fsync(file.fileno())


def _where_no_fsync_works(work: Callable[[], object]) -> list[object]:
    """Run ``work`` in a thread in which every fsync fails. Its result, or ``pytest.skip``."""
    if _SYS_FSYNC < 0:
        pytest.skip("system call numbers of this processor are not known here")
    done: list[object] = []

    def run() -> None:
        try:
            _fail_every_fsync()
        except OSError as error:
            done.append(error)
            return
        done.append(work())

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if isinstance(done[0], OSError):
        pytest.skip(f"no seccomp filter can be set here: {done[0]}")
    return done


@pytest.mark.parametrize("before", [0, 5])  # with an empty log, and behind whole transactions
def test_no_lease_is_handed_out_while_fsync_fails(deployment: Deployment, before: int) -> None:
    """The COMMIT that failed can be read back from the kernel's memory: that is no durability.
    When the disk works again, the same lease is used, not a second one."""
    with served(deployment) as witness:  # its own threads, whose fsync works
        ledger = deployment.open(witness=witness)
        for _ in range(before):
            ledger.settle(lease(ledger, 1), 0)
        size = ledger.state().size
        (answers,) = _where_no_fsync_works(lambda: [ledger.acquire("answers", 10) for _ in "1234"])
        assert [a.reason for a in answers if isinstance(a, Denied)] == ["store"] * 4  # type: ignore[attr-defined]
        got = lease(ledger, 10)
        store = deployment.store()
        leaves = store.leaves(size, store.head().size)  # type: ignore[union-attr]
        store.close()
        assert [b'"t":"lease"' in leaf for leaf in leaves].count(True) == 1
        assert got.lease_id.hex().encode() in b"".join(leaves)
        ledger.settle(got, 10)
        ledger.close()
    assert verify_path(deployment.folder).balances.spent_bytes == 50


def test_a_store_in_doubt_waits_for_whoever_reads_the_old_log(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log cannot start over under a reader, a backup say: nothing is granted till it ends.
    A store that is not in doubt starts and works beside it."""
    monkeypatch.setattr(sqlite_store, "BUSY_TIMEOUT_S", 0.3)
    with served(deployment) as witness:
        ledger = deployment.open(witness=witness)
        ledger.settle(lease(ledger, 1), 0)
        reader = sqlite3.connect(deployment.db, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM leaf").fetchone()
        ledger.settle(lease(ledger, 1), 0)
        beside = deployment.open(witness=witness, gate="beside")
        ledger.settle(lease(beside, 1), 0)
        beside.close()
        _where_no_fsync_works(lambda: ledger.acquire("answers", 10))
        refused = ledger.acquire("answers", 10)
        assert isinstance(refused, Denied)
        assert "another process is using it" in refused.detail
        reader.execute("ROLLBACK")
        reader.close()
        assert isinstance(ledger.acquire("answers", 10), Lease)
        ledger.close()


def test_a_settlement_that_was_not_synced_counts_in_full(deployment: Deployment) -> None:
    with served(deployment) as witness:
        ledger = deployment.open(witness=witness)
        got = lease(ledger, 100)
        _where_no_fsync_works(lambda: ledger.settle(got, 30))
        assert isinstance(ledger.acquire("answers", 10), Lease)  # writes it after all
        assert current_balances(ledger).spent_bytes == 70
        ledger.close()


def test_a_witness_whose_fsync_fails_cosigns_nothing(deployment: Deployment) -> None:
    witness = deployment.witness()
    ledger = deployment.open(witness=witness)
    lease(ledger, 10)
    with sqlite3.connect(deployment.folder / "witness" / "witness.db") as db:
        (before,) = db.execute("SELECT size FROM log").fetchone()
    (answers,) = _where_no_fsync_works(lambda: [ledger.acquire("answers", 10) for _ in "123"])
    assert all(isinstance(answer, Denied) for answer in answers)  # type: ignore[attr-defined]
    (after,) = db.execute("SELECT size FROM log").fetchone()
    db.close()
    assert after == before
    assert isinstance(ledger.acquire("answers", 10), Lease)
    ledger.close()


# -- a file system that is full --------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB. Needs root and mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=1m", "narrows-test", str(folder)]
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    if (done := subprocess.run(words, capture_output=True)).returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(folder: Path, leave: int) -> Path:
    """Take all of the file system but ``leave`` bytes."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        size = os.statvfs(folder).f_bavail * os.statvfs(folder).f_frsize
        os.posix_fallocate(file.fileno(), 0, size)
        file.truncate(max(0, os.fstat(file.fileno()).st_size - leave))
    return ballast


@pytest.mark.parametrize("leave", [0, 4096, 16384, 40960])
def test_a_full_file_system_refuses_and_goes_on_when_there_is_room(
    small_disk: Path, leave: int
) -> None:
    deployment = Deployment.create(small_disk / "state")
    sent = 0
    with deployment.ready(Limits(1000)) as ledger:
        sent += lease(ledger, 10).size_bytes
        ballast = _fill(small_disk, leave)
        answers = [ledger.acquire("answers", 10) for _ in range(30)]
        sent += sum(a.size_bytes for a in answers if isinstance(a, Lease))
        assert isinstance(answers[-1], Denied)
        assert answers[-1].reason in ("store", "witness")
        with pytest.raises(BudgetError):
            deployment.store().backup(small_disk / "backup.db")
        assert not (small_disk / "backup.db").exists()
        ballast.unlink()
        while isinstance(got := ledger.acquire("answers", 200), Lease):
            sent += got.size_bytes
        assert got.reason == "depleted"
        assert sent == 1000
    deployment.close()
    found = verify_path(deployment.folder)
    assert found.balances.spent_bytes + found.balances.outstanding_bytes == 1000
