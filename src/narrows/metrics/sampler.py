"""Reads all roles' figures at fixed moments, and keeps the answer to a scrape.

Invariant: what a scrape shows was read at a moment of the exporter's own clock, a whole number of
``sample_s`` after its start, never when somebody or something asked. So the enclave, which moves
many of these numbers, does not choose when they become seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from narrows.errors import BudgetError, NarrowsError
from narrows.ledger.clock import Clock, SystemClock
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.office.balances import balances_now
from narrows.ledger.replica import Replica
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.store import Store
from narrows.metrics import readings
from narrows.metrics.enclave import EnclaveFigures
from narrows.metrics.exposition import Value, exposition, value

log = logging.getLogger("narrows.metrics")


class LedgerReader:
    """Follows one ledger, read-only: a sample costs the leaves since the last one."""

    def __init__(self, place: LedgerPlace, clock: Clock | None = None) -> None:
        self._place, self._clock = place, clock or SystemClock()
        self._store: Store | None = None
        self._replica: Replica | None = None
        self._file: tuple[int, int] | None = None

    def values(self) -> list[Value] | None:
        """None where no ledger was made here. Errors: ``NarrowsError``."""
        if not self._place.exists():
            return None
        if self._file != (file := self._identity()):
            self.close()  # another was put in its place: an open file would be the old one for ever
            self._file = file
        try:
            if self._store is None or self._replica is None:
                self._store = self._place.read()
                public = public_of(load_private(self._place.key_file))
                self._replica = Replica(self._store, public, None)
            self._replica.reload()
        except NarrowsError:
            self.close()  # a ledger that was restored is read anew
            raise
        state = self._replica.state
        return readings.ledger_values(state, balances_now(state, self._clock))

    def _identity(self) -> tuple[int, int] | None:
        try:
            found = self._place.file.stat() if self._place.etcd is None else None
        except OSError as error:
            raise BudgetError(f"cannot read {self._place.file}: {error.strerror}") from error
        return None if found is None else (found.st_dev, found.st_ino)

    def close(self) -> None:
        if self._store is not None:
            self._store.close()
        self._store = self._replica = None


class Sampler:
    """``verdicts``: the fields of the poster's book. ``enclave``: what telemetry said, None where
    it is not read. ``wall_s``: Unix time. ``body``: the answer to a scrape; empty before the first
    ``sample``."""

    def __init__(
        self,
        folder: Path,
        ledger: LedgerReader,
        verdicts: Callable[[], Mapping[str, object]],
        enclave: EnclaveFigures | None = None,
        per_key: bool = False,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        self._folder, self._ledger, self._verdicts = folder, ledger, verdicts
        self._enclave, self._per_key, self._wall_s = enclave, per_key, wall_s
        self._faults: dict[str, str] = {}
        self.body = b""

    def sample(self) -> None:
        """Read everything anew. A role that cannot be read is down, and costs the others
        nothing."""
        folder, now_s, began_s = self._folder, self._wall_s(), time.monotonic()
        sources: dict[str, Callable[[], list[Value] | None]] = {
            "ledger": self._ledger.values,
            "witness": lambda: readings.witness_values(folder),
            "gate": lambda: readings.gate_values(folder, now_s),
            "edge": lambda: readings.edge_values(folder, now_s),
            "auditor": lambda: readings.auditor_values(self._verdicts(), now_s),
        }
        if self._enclave is not None:
            sources["enclave"] = self._enclave.values
        if self._per_key:
            sources["keys"] = lambda: readings.key_values(folder)
        found: list[Value] = []
        for role, read in sources.items():
            found += self._read(role, read)
        found.append(value("narrows_sample_timestamp_seconds", now_s))
        took_s = time.monotonic() - began_s
        found.append(value("narrows_sample_duration_seconds", took_s))
        self.body = exposition(found)

    def _read(self, role: str, read: Callable[[], list[Value] | None]) -> list[Value]:
        try:
            values = read()
        except NarrowsError as error:
            if self._faults.get(role) != error.message:
                log.warning("%s: %s", role, error.message)
            self._faults[role] = error.message
            return [readings.up(role, False)]
        if self._faults.pop(role, None) is not None:
            log.info("%s: can be read again", role)
        return values or []
