"""Put a backup in the ledger's place. A backup is made by ``SqliteStore.backup``.

The old file is moved aside first and never deleted: it may hold more than the backup.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from narrows.errors import BudgetError
from narrows.ledger.opening import hold_folder
from narrows.ledger.setup import make_directory
from narrows.ledger.sqlite_store import SqliteStore
from narrows.ledger.verify import Verified, verify_path


def restore_file(state_dir: Path, source: Path) -> tuple[Verified, Path | None]:
    """Verify ``source`` and copy it to STATE/ledger/ledger.db; no gate may be running.
    Returns what was found in it, and where the old file went. Errors: ``BudgetError``."""
    found = verify_path(source)
    directory = state_dir / "ledger"
    target = directory / "ledger.db"
    with hold_folder(directory):
        kept = _move_aside(target)
        store = SqliteStore(source, read_only=True)
        try:
            store.backup(target)
        finally:
            store.close()
        make_directory(directory)
    return found, kept


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
