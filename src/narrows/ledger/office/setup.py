"""Make a ledger or a witness: directories, keys, the first leaf. Run once, by people.

STATE/ledger/ledger.db  log.key  operators/   0700, files 0600
STATE/witness/witness.db  witness.key         on another machine in production
"""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.durable import read_once, sync_folder, write_whole
from narrows.errors import BudgetError
from narrows.ledger.changes import Operators, parse_operators
from narrows.ledger.clock import Clock, SystemClock
from narrows.ledger.keys import load_private, public_of, public_of_hex, save_private
from narrows.ledger.leaves import genesis_leaf
from narrows.ledger.log.canonical import MAX_DOCUMENT_BYTES, Fields, decode, encode
from narrows.ledger.replica import Replica
from narrows.ledger.stores import sqlite as sqlite_store
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.witness.clock import WitnessTime
from narrows.ledger.witness.witness import SCHEMA, WITNESS_NAME, Witness, WitnessError
from narrows.private import private_folder


def make_directory(path: Path, *names: str) -> Path:
    """``private_folder``, synced into its parent. Errors: ``BudgetError``, ``InputError``."""
    made = private_folder(path, *names)
    sync_names(made.parent)
    return made


def sync_names(directory: Path) -> None:
    """Make the names in a directory durable: files made or renamed there. Errors:
    ``BudgetError``."""
    try:
        sync_folder(directory)
    except OSError as error:
        raise BudgetError(f"cannot sync {directory}: {error.strerror}") from error


def make_operators(keys: list[str], threshold: int) -> Operators:
    """Errors: ``BudgetError`` where these are no keys, or fewer than ``threshold``."""
    fields = Fields({"keys": sorted(keys), "threshold": threshold}, "operators")
    return parse_operators(fields)


def write_log_file(path: Path, origin: str, log_key: bytes, operators: Operators) -> None:
    """What a witness must know of a log: written here, carried there by people. Errors:
    ``InputError``."""
    document = {
        "origin": origin,
        "log_key": log_key.hex(),
        "keys": list(operators.keys),
        "threshold": operators.threshold,
    }
    write_whole(path, encode(document) + b"\n")


def read_log_file(path: Path) -> tuple[str, bytes, Operators]:
    """The inverse of ``write_log_file``. Errors: ``NarrowsError``."""
    data = read_once(path, MAX_DOCUMENT_BYTES + 1)
    fields = Fields(decode(data.removesuffix(b"\n")), str(path))
    origin, log_key = fields.text("origin"), public_of_hex(fields.take("log_key"), "the log's key")
    operators = parse_operators(fields)
    fields.done()
    return origin, log_key, operators


def create_log_key(place: LedgerPlace) -> bytes:
    """Make STATE/ledger/log.key; returns its public key."""
    make_directory(place.state_dir, place.folder.name)
    key = Ed25519PrivateKey.generate()
    save_private(place.key_file, key)
    return public_of(key)


def create_ledger(
    place: LedgerPlace,
    origin: str,
    operators: Operators,
    witness_key: bytes | None,
    time_ms: int,
) -> None:
    """Make the ledger at ``place``, with its first leaf; the log key must exist. No budget yet:
    only a signed change makes one. ``time_ms``: where ledger time starts (Unix time)."""
    key = load_private(place.key_file)
    with closing(place.create()) as store:
        replica = Replica(store, public_of(key), key)
        leaf = genesis_leaf(origin, public_of(key), witness_key, operators, time_ms)
        replica.append([leaf])


def create_witness(state_dir: Path, passphrase: bytes | None = None) -> bytes:
    """Make STATE/witness; returns the witness's public key."""
    directory = make_directory(state_dir, "witness")
    key, path = Ed25519PrivateKey.generate(), directory / "witness.db"
    save_private(directory / "witness.key", key, passphrase)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        connection = sqlite_store.connect(path, read_only=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN IMMEDIATE; {SCHEMA} COMMIT")
        finally:
            connection.close()
        sync_names(directory)
    except (OSError, *sqlite_store.FILE_ERRORS) as error:
        raise WitnessError(f"cannot make {path}: {error}") from error
    return public_of(key)


def open_witness(
    state_dir: Path, clock: Clock | None = None, passphrase: bytes | None = None
) -> Witness:
    """The witness under ``state_dir``. Errors: ``BudgetError``, ``InputError`` where its folder is
    not its user's alone."""
    directory = private_folder(state_dir, "witness", make=False)
    path = directory / "witness.db"
    if not path.is_file():
        raise WitnessError(f"there is no witness at {path}", "narrows witness --init makes one")
    key = load_private(directory / "witness.key", passphrase)
    witness_time = WitnessTime(path, clock or SystemClock(), lambda: int(time.time() * 1000))
    return Witness(path, WITNESS_NAME, key, witness_time.now_ms)
