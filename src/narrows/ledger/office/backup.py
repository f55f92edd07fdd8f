"""Put a backup in the ledger's place. A backup is made by ``SqliteStore.backup``.

1. The backup is copied beside the ledger, synced, and the copy verified, not the backup, which
   others may be able to change meanwhile; until then nothing has changed.
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
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.sqlite import SqliteStore, remove
from narrows.private import private_folder


def restore_file(place: LedgerPlace, source: Path) -> tuple[Verified, Path | None]:
    """Copy ``source``, verify the copy and put it in the place of ``place.file``; no gate may be
    running. Returns what was found in it, and where the old file went. Errors:
    ``BudgetError``; where the copy could not be made or verified, the old file is still in its
    place."""
    private_folder(place.state_dir, place.folder.name, make=False)
    target, copy = place.file, place.file.with_name("ledger.db.restoring")
    with place.lock_all():
        remove(copy)  # of a restore that was killed
        store = SqliteStore(source, read_only=True)
        try:
            store.backup(copy)
        finally:
            store.close()
        try:
            found = verify_path(copy)
        except BudgetError:
            remove(copy)
            raise
        for suffix in ("-wal", "-shm"):  # of the verification; the copy's own log was emptied
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        kept = _move_aside(target)
        _rename(copy, target)
        sync_names(place.folder)
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
