"""Where a ledger lies, STATE/ledger/ledger.db or an etcd cluster, and who holds a name in it."""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from narrows.durable import open_once, write_whole
from narrows.errors import BudgetError, InputError
from narrows.ledger.log.canonical import unhex
from narrows.ledger.stores import sqlite as sqlite_store
from narrows.ledger.stores.etcd import EtcdStore
from narrows.ledger.stores.etcd_http import Announce, EtcdConfig
from narrows.ledger.stores.sqlite import SqliteStore
from narrows.ledger.stores.store import Store, StoreError

OPERATOR = "operator"  # the name under which people append; it holds no leases
MACHINE_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """Where the ledger of one state folder lies. Its log key and the locks of its gates are in
    STATE/ledger; so is the log itself, unless ``etcd`` says in which cluster."""

    state_dir: Path
    etcd: EtcdConfig | None = None

    @property
    def folder(self) -> Path:
        return self.state_dir / "ledger"

    @property
    def file(self) -> Path:
        """The SQLite file; without meaning where ``etcd`` is given."""
        return self.folder / "ledger.db"

    @property
    def key_file(self) -> Path:
        return self.folder / "log.key"

    def exists(self) -> bool:
        """Whether a ledger was made here; one in etcd is taken to be there."""
        return self.etcd is not None or self.file.is_file()

    def read(self) -> Store:
        """The store, to read, also while gates use it. Errors: ``BudgetError``."""
        return SqliteStore(self.file, read_only=True) if self.etcd is None else EtcdStore(self.etcd)

    def open_as(self, gate: str, announce: Announce = lambda size_bytes: None) -> Store:
        """The store, to append to as ``gate``, whose ``lock`` the caller holds; ``announce`` hears
        what is about to be sent over the network. Errors: ``BudgetError`` where another machine
        has that name."""
        if self.etcd is None:
            return SqliteStore(self.file)
        store = EtcdStore(self.etcd, announce)
        try:
            if gate != OPERATOR:
                store.claim(gate, machine_id(self.folder / f"{gate}.id"))
        except BudgetError:
            store.close()
            raise
        return store

    def create(self) -> Store:
        """A new, empty store. Errors: ``BudgetError``."""
        if self.etcd is None:
            sqlite_store.create(self.file)
            return SqliteStore(self.file)
        store = EtcdStore(self.etcd)
        store.create()
        return store

    def lock(self, gate: str) -> int:
        """Hold ``gate``'s name on this machine: a descriptor, whose end releases it, however the
        process ends. Errors: ``BudgetError``."""
        return _lock(self.folder / f"{gate}.lock")

    @contextmanager
    def lock_all(self) -> Iterator[None]:
        """Hold the names of all gates that ever used this folder. Errors: ``BudgetError``."""
        names = {"gate.lock", f"{OPERATOR}.lock"} | {p.name for p in self.folder.glob("*.lock")}
        with ExitStack() as held:
            for name in sorted(names):
                held.callback(os.close, _lock(self.folder / name))
            yield


def machine_id(path: Path) -> str:
    """Who has a gate's name: 32 hex digits, made once and kept beside the gate's lock file."""
    try:
        if not path.exists():
            write_whole(path, secrets.token_hex(MACHINE_ID_BYTES).encode())
        with open_once(path) as file:
            text = file.read(2 * MACHINE_ID_BYTES + 1).decode("ascii")
    except (InputError, OSError, UnicodeDecodeError) as error:
        raise BudgetError(f"cannot keep this machine's name in {path}: {error}") from error
    if unhex(text, MACHINE_ID_BYTES) is None:
        raise BudgetError(f"{path} is damaged", "if no gate here is running, delete it")
    return text


def _lock(path: Path) -> int:
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
