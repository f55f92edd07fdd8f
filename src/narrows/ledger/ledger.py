"""The ledger of one gate: rules, store, log and witness behind ``LeaseSource``.

Order of a lease (law 1):
1. the rules allow it at the ledger's time;
2. its leaf and a signed head are appended, durably, if nobody else appended meanwhile;
3. the witness cosigns a head that contains it;
4. only then ``acquire`` returns it, if it is outstanding in that head.

Whatever fails in between, the next call starts from the store: a lease whose write had an
unknown outcome is looked up by its id, and returned once it is durable and cosigned, or was
never written. A lease that was never returned is outstanding, so it counts as spent.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger import admin, rules
from narrows.ledger.api import Denied, Lease
from narrows.ledger.balances import Balances, balances_of
from narrows.ledger.clock import Clock, ClockError, SystemClock
from narrows.ledger.codec import Document
from narrows.ledger.keys import load_private
from narrows.ledger.replica import BehindError
from narrows.ledger.session import Session, WitnessClient
from narrows.ledger.sqlite_store import SqliteStore
from narrows.ledger.store import Store, StoreError
from narrows.ledger.witness import WitnessError

BATCH_LEASES = 1024


class Ledger:
    """Implements ``api.LeaseSource``. Thread-safe; every call may block on disk and witness.

    ``gate``: the name under which leases are held; one process at a time (a lock file).
    """

    def __init__(
        self,
        store: Store,
        log_key: Ed25519PrivateKey,
        witness: WitnessClient | None,
        gate: str = "gate",
        clock: Clock | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._lock = threading.RLock()
        self._session = Session(store, log_key, witness, clock or SystemClock(), random_bytes)
        self._gate = gate
        self._pending: dict[str, bytes] = {}  # account to lease that is not handed out yet
        self._unsettled: dict[bytes, int] = {}  # lease to bytes used, not yet written
        self._lock_file: int | None = None

    @classmethod
    def open(
        cls,
        state_dir: Path,
        *,
        witness: WitnessClient | None,
        gate: str = "gate",
        clock: Clock | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> Ledger:
        """The ledger under ``state_dir``. Errors: ``BudgetError`` where it is missing,
        damaged, in use by another gate of that name, or where its genesis names a witness
        and none, or another one, is given. Call ``recover_dead_leases`` next."""
        directory = state_dir / "ledger"
        store = SqliteStore(directory / "ledger.db")
        ledger = cls(store, load_private(directory / "log.key"), witness, gate, clock, random_bytes)
        try:
            ledger._lock_file = _lock(directory / f"{gate}.lock")
            ledger._session.replica.reload()
            ledger._session.check_witness_key()
        except BudgetError:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        """Write what settlements are still owed; leases that the gate holds stay outstanding,
        until ``recover_dead_leases`` counts them as spent."""
        with self._lock:
            self._unsettled |= dict.fromkeys(self._pending.values(), 0)  # never handed out
            if not self._session.replica.void:
                with suppress(BudgetError):  # then they count in full
                    self._append_settlements()
            self._session.close()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    # -- LeaseSource -------------------------------------------------------------------

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        with self._lock:
            try:
                return self._acquire(account, want_bytes)
            except BehindError as error:
                return Denied("behind", str(error))
            except WitnessError as error:
                self._session.distrust()
                return Denied("witness", str(error))
            except ClockError as error:
                return Denied("clock", str(error))
            except BudgetError as error:
                return Denied("store", str(error))

    def settle(self, lease: Lease, used_bytes: int) -> None:
        """Errors: ``BudgetError`` where ``used_bytes`` is impossible. A settlement that cannot
        be written now is kept and written with the next call; until then the lease counts in
        full."""
        if not 0 <= used_bytes <= lease.size_bytes:
            raise BudgetError(f"{used_bytes} bytes used of a lease of {lease.size_bytes}")
        with self._lock:
            self._unsettled.setdefault(lease.lease_id, used_bytes)
            try:
                self._session.ready()
                self._append_settlements()
            except WitnessError:
                self._session.distrust()
            except BudgetError:
                return  # counted in full until a later call can write it

    # -- start and administration ------------------------------------------------------

    def recover_dead_leases(self) -> int:
        """Count every outstanding lease of this gate's name as spent; returns how many. Only
        at the start of a gate: the lock file says that the one before is gone."""
        with self._lock:
            self._session.ready()
            self._pending.clear()
            dead = self._session.state.leases_of(self._gate)
            for first in range(0, len(dead), BATCH_LEASES):
                self._session.write(partial(self._dead_leaves, dead[first : first + BATCH_LEASES]))
            return len(dead)

    def apply_change(self, document: Document, signatures: list[list[str]]) -> int:
        """Append a signed change, cosigned; returns its position. Errors: ``BudgetError``."""
        with self._lock:
            return admin.apply_change(self._session, document, signatures)

    def recovery(self) -> admin.Gap:
        """What ``narrows ledger recover`` has to give up. Errors: ``BudgetError``."""
        with self._lock:
            return admin.find_gap(self._session)

    def recover(self, document: Document, signatures: list[list[str]]) -> int:
        """Apply a signed recovery; returns its position. Errors: ``BudgetError``."""
        with self._lock:
            return admin.recover(self._session, document, signatures)

    def state(self) -> rules.State:
        """The rules' state as of now: read it, do not change it."""
        with self._lock:
            self._session.replica.reload()
            return self._session.state

    def balances(self) -> Balances:
        """Every balance as of now. Errors: ``BudgetError``."""
        with self._lock:
            self._session.ready()
            return balances_of(self._session.state, self._session.now_ms())

    def now_ms(self) -> int:
        """Ledger time. Errors: ``BudgetError``."""
        with self._lock:
            self._session.ready()
            return self._session.now_ms()

    # -- steps -------------------------------------------------------------------------

    def _acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        session = self._session
        session.ready()
        lease_id = self._pending.get(account)
        held = session.state.leases.get(lease_id.hex()) if lease_id else None
        if lease_id is None or held is None or held.size_bytes > want_bytes:
            if lease_id is not None and held is not None:
                # Given up for good: handed out after all, it would be spent and returned.
                del self._pending[account]
                self._unsettled[lease_id] = 0
            refusal = self._write_lease(account, want_bytes)
            if refusal is not None:
                return self._denied(refusal)
            lease_id = self._pending[account]
        session.cosign()
        del self._pending[account]
        held = session.state.leases.get(lease_id.hex())  # cosign may have read a newer log
        if held is None:
            return Denied("store", "the lease ended before it was cosigned")
        return Lease(lease_id, account, held.size_bytes)

    def _write_lease(self, account: str, want_bytes: int) -> rules.Refusal | None:
        self._append_settlements()
        session, refusals = self._session, list[rules.Refusal]()
        lease_id = self._pending[account] = session.random_bytes(rules.ID_BYTES)

        def decide() -> list[bytes]:
            now_ms = session.now_ms()
            decision = rules.lease_leaf(
                session.state, account, want_bytes, lease_id, self._gate, now_ms
            )
            refusals[:] = [decision] if isinstance(decision, rules.Refusal) else []
            return [] if isinstance(decision, rules.Refusal) else [decision[0]]

        session.write(decide)
        if refusals:
            del self._pending[account]
            return refusals[0]
        return None

    def _append_settlements(self) -> None:
        if self._unsettled:
            self._session.write(self._settlements)
            self._unsettled.clear()

    def _settlements(self) -> list[bytes]:
        state, now_ms = self._session.state, self._session.now_ms()
        leaves = [rules.settle_leaf(state, i, n, now_ms) for i, n in self._unsettled.items()]
        return [leaf for leaf in leaves if leaf is not None]

    def _dead_leaves(self, lease_ids: list[str]) -> list[bytes]:
        state, now_ms = self._session.state, self._session.now_ms()
        return [rules.dead_leaf(state, i, now_ms) for i in lease_ids if i in state.leases]

    def _denied(self, refusal: rules.Refusal) -> Denied:
        retry_s = None
        if refusal.free_at_ms is not None:
            retry_s = max(1, refusal.free_at_ms - self._session.now_ms()) / 1000
        return Denied(refusal.reason, refusal.detail, retry_s)


@contextmanager
def hold_folder(directory: Path, gates: tuple[str, ...] = ("gate", "operator")) -> Iterator[None]:
    """Hold the locks of all ``gates`` that use this folder. Errors: ``BudgetError``."""
    with ExitStack() as held:
        for gate in gates:
            held.callback(os.close, _lock(directory / f"{gate}.lock"))
        yield


def _lock(path: Path) -> int:
    """Hold ``path`` for this process; it is released when the process ends, however it ends."""
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise BudgetError(f"another process holds {path}", "stop the other gate first") from error
    return descriptor
