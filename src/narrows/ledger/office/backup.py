"""Put a backup in the ledger's place. A backup is made by ``SqliteStore.backup``.

1. The backup is verified and copied beside the ledger, synced; until then nothing has changed.
2. The old file is moved aside, never deleted: it may hold more than the backup.
3. The copy is renamed into its place, and the names are synced. A crash between 2 and 3 leaves no
   ledger: the gate refuses to start, and the command can be run again.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger.office.setup import sync_names
from narrows.ledger.office.verify import Verified, verify_path
from narrows.ledger.stores.place import hold_folder
from narrows.ledger.stores.sqlite import SqliteStore, remove
from narrows.private import private_folder


def restore_file(state_dir: Path, source: Path) -> tuple[Verified, Path | None]:
    """Verify ``source`` and put a copy in the place of STATE/ledger/ledger.db; no gate may be
    running. Returns what was found in it, and where the old file went. Errors: ``BudgetError``;
    where the copy could not be made, the old file is still in its place."""
    found = verify_path(source)
    directory = private_folder(state_dir, "ledger", make=False)
    target, copy = directory / "ledger.db", directory / "ledger.db.restoring"
    with hold_folder(directory):
        remove(copy)  # of a restore that was killed
        store = SqliteStore(source, read_only=True)
        try:
            store.backup(copy)
        finally:
            store.close()
        kept = _move_aside(target)
        _rename(copy, target)
        sync_names(directory)
    return found, kept


def _rename(path: Path, target: Path) -> None:
    try:
        os.rename(path, target)
    except OSError as error:
        raise BudgetError(f"cannot rename {path}: {error.strerror}") from error


def _move_aside(target: Path) -> Path | None:
    if not target.exists():
        return None
    kept = target.with_name(f"ledger-{time.time_ns()}.db")
    try:
        # The write-ahead log belongs to the file: it goes first, so that a crash in between
        # leaves the file without its newest leaves (behind its witness), never a foreign one.
        for suffix in ("-wal", "-shm", ""):
            part = target.with_name(target.name + suffix)
            if part.exists():
                os.rename(part, kept.with_name(kept.name + suffix))
    except OSError as error:
        raise BudgetError(f"cannot move {target} aside: {error.strerror}") from error
    return kept
