"""The witness's time: its wall clock once per boot, then CLOCK_BOOTTIME.

The wall clock is read when a boot is first seen and never again in that boot: setting it has
no effect on a running machine. Across boots the stored time is a floor, so it never goes back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from narrows.ledger.clock import Clock, LedgerTime
from narrows.ledger.records import Anchor
from narrows.ledger.stores.sqlite import FILE_ERRORS, checked, connect
from narrows.ledger.witness.witness import WitnessError


class WitnessTime:
    """``wall_ms``: the wall clock, Unix milliseconds."""

    def __init__(self, path: Path, clock: Clock, wall_ms: Callable[[], int]) -> None:
        try:
            db = connect(path, False)
            try:
                anchor = _anchor(db, path, clock, wall_ms)
            finally:
                db.close()
        except FILE_ERRORS as error:
            raise WitnessError(f"cannot keep time in {path}: {error}") from error
        self._time = LedgerTime(clock, anchor)

    def now_ms(self) -> int:
        return self._time.now_ms()


def _anchor(db: sqlite3.Connection, path: Path, clock: Clock, wall_ms: Callable[[], int]) -> Anchor:
    boot_id = clock.boot_id()
    rows = db.execute("SELECT boot_id, boot_ms, time_ms FROM time").fetchall()
    stored = [Anchor(*row) for row in checked(rows, (str, int, int), path)]
    if stored and stored[0].boot_id == boot_id:
        return stored[0]
    floor_ms = stored[0].time_ms if stored else 0
    anchor = Anchor(boot_id, clock.boot_ms(), max(wall_ms(), floor_ms))
    db.execute(
        "INSERT OR REPLACE INTO time VALUES (1, ?, ?, ?)",
        (anchor.boot_id, anchor.boot_ms, anchor.time_ms),
    )
    return anchor
