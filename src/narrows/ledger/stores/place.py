"""Which store a ledger lies in, STATE/ledger/ledger.db or an etcd cluster, and who holds a name."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger.log.canonical import unhex
from narrows.ledger.stores import sqlite as sqlite_store
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.etcd_http import Announce, EtcdConfig
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.stores.store import Store, StoreError

OPERATOR = "operator"  # the name under which people append; it holds no leases
MACHINE_ID_BYTES = 16


def open_store(state_dir: Path, etcd: EtcdConfig | None, read_only: bool = False) -> Store:
    """The store of ``state_dir``'s ledger; ``etcd``: where it lies if not in that folder."""
    if etcd is not None:
        return EtcdStore(etcd)
    return SqliteStore(state_dir / "ledger" / "ledger.db", read_only)


def open_as(
    state_dir: Path,
    etcd: EtcdConfig | None,
    gate: str,
    announce: Announce = lambda size_bytes: None,
) -> Store:
    """The same, to append to as ``gate``; ``announce`` hears what is about to be sent over the
    network. Errors: ``BudgetError`` where another machine has that name."""
    if etcd is None:
        return open_store(state_dir, None)
    store = EtcdStore(etcd, announce)
    try:
        if gate != OPERATOR:
            store.claim(gate, machine_id(state_dir / "ledger" / f"{gate}.id"))
    except BudgetError:
        store.close()
        raise
    return store


def make_store(state_dir: Path, etcd: EtcdConfig | None) -> Store:
    """A new, empty one."""
    if etcd is not None:
        store = EtcdStore(etcd)
        store.create()
        return store
    path = state_dir / "ledger" / "ledger.db"
    sqlite_store.create(path)
    return SqliteStore(path)


def machine_id(path: Path) -> str:
    """Who has a gate's name: 32 hex digits, made once and kept beside the gate's lock file."""
    try:
        if not path.exists():
            with path.with_suffix(".new").open("w") as file:
                file.write(secrets.token_hex(MACHINE_ID_BYTES))
                file.flush()
                os.fsync(file.fileno())
            path.with_suffix(".new").replace(path)
        with path.open("rb") as file:
            text = file.read(2 * MACHINE_ID_BYTES + 1).decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise BudgetError(f"cannot keep this machine's name in {path}: {error}") from error
    if unhex(text, MACHINE_ID_BYTES) is None:
        raise BudgetError(f"{path} is damaged", "if no gate here is running, delete it")
    return text


@contextmanager
def hold_folder(directory: Path) -> Iterator[None]:
    """Hold the locks of all gates that ever used this folder. Errors: ``BudgetError``."""
    names = {"gate.lock", f"{OPERATOR}.lock"} | {path.name for path in directory.glob("*.lock")}
    with ExitStack() as held:
        for name in sorted(names):
            held.callback(os.close, lock_gate(directory / name))
        yield


def lock_gate(path: Path) -> int:
    """Hold ``path`` for this process; it is released when the process ends, however it ends."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BudgetError(f"another process holds {path}", "stop the other gate first") from error
    return descriptor
