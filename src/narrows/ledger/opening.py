"""Which store a ledger lies in: STATE/ledger/ledger.db, or an etcd cluster."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger import sqlite_store
from narrows.ledger.codec import unhex
from narrows.ledger.etcd_http import EtcdConfig
from narrows.ledger.etcd_store import EtcdStore
from narrows.ledger.sqlite_store import SqliteStore
from narrows.ledger.store import Store

OPERATOR = "operator"  # the name under which people append; it holds no leases
MACHINE_ID_BYTES = 16


def open_store(state_dir: Path, etcd: EtcdConfig | None, read_only: bool = False) -> Store:
    """The store of ``state_dir``'s ledger; ``etcd``: where it lies if not in that folder."""
    if etcd is not None:
        return EtcdStore(etcd)
    return SqliteStore(state_dir / "ledger" / "ledger.db", read_only)


def open_as(state_dir: Path, etcd: EtcdConfig | None, gate: str) -> Store:
    """The same, to append to as ``gate``. Errors: ``BudgetError`` where another machine has
    that name."""
    if etcd is None:
        return open_store(state_dir, None)
    store = EtcdStore(etcd)
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
