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

import os
import secrets
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger import leaves, rules
from narrows.ledger.api import Denied, Lease
from narrows.ledger.clock import Clock, ClockError, SystemClock
from narrows.ledger.keys import load_private
from narrows.ledger.net import credited_positions
from narrows.ledger.owed import BATCH_LEAVES, RETRY_S, Later, Owed, start_timer
from narrows.ledger.replica import BehindError
from narrows.ledger.session import PATIENT_TRIES, Session, WitnessClient
from narrows.ledger.stores.etcd_http import Announce
from narrows.ledger.stores.place import LedgerPlace
from narrows.ledger.stores.store import Store
from narrows.ledger.witness.witness import WitnessError
from narrows.private import private_folder

MAX_CLOSE_WAIT_MS = 2_000
MAX_DEAD_WAIT_MS = 60_000
T = TypeVar("T")
FindWitness = Callable[[str], WitnessClient | None]


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
        sleep: Callable[[float], None] = time.sleep,
        later: Later = start_timer,
    ) -> None:
        self._lock = threading.RLock()
        self._session = Session(store, log_key, witness, clock or SystemClock(), random_bytes, gate)
        self._gate = gate
        self._pending: dict[str, bytes] = {}  # account to lease that is not handed out yet
        self._owed = Owed(self._session)
        self._store_failed = False  # since the last lease: what can be read proves no write
        self._sleep, self._later = sleep, later
        self._cancel: Callable[[], None] | None = None  # the timer that writes what is owed
        self._closed = False
        self._lock_file: int | None = None

    @classmethod
    def open(
        cls,
        place: LedgerPlace,
        *,
        witness: WitnessClient | None,
        find_witness: FindWitness | None = None,
        gate: str = "gate",
        clock: Clock | None = None,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
        announce: Announce = lambda size_bytes: None,
    ) -> Ledger:
        """The ledger at ``place``; ``find_witness`` is given the witness's key as the genesis names
        it, and finds it in the place of ``witness``; ``announce`` hears what is about to be sent to
        the store. ``BudgetError`` where it is missing, damaged, in use by another gate of that
        name, or where its genesis names a witness and none, or another one, is given;
        ``InputError`` where others own or may write the folder. Nothing was written then. Call
        ``recover_dead_leases`` next."""
        private_folder(place.state_dir, place.folder.name, make=False)
        key = load_private(place.key_file)
        with ExitStack() as undo:
            lock_file = place.lock(gate)
            undo.callback(os.close, lock_file)
            store = place.open_as(gate, announce)  # only the lock's holder may take the name
            undo.callback(store.close)
            ledger = cls(store, key, witness, gate, clock, random_bytes)
            session = ledger._session
            session.replica.reload()
            if find_witness is not None:
                session.witness = find_witness(session.state.witness_key)
            session.check_witness_key()
            undo.pop_all()
        ledger._lock_file = lock_file
        return ledger

    def close(self) -> None:
        """Write what settlements are still owed; leases that the gate holds stay outstanding,
        until ``recover_dead_leases`` counts them as spent."""
        with self._lock:
            self._closed = True
            if self._cancel is not None:
                self._cancel()
            for lease_id in self._pending.values():  # never handed out
                self._owed.add(lease_id, 0)
            if not self._session.replica.void:
                with suppress(BudgetError):  # then they count in full
                    if self._session.store.shared:
                        self._session.ready()  # its time may be stale
                    elif self._session.stale:
                        with suppress(WitnessError):  # it may have been stopped before
                            self._session.ready()
                    self._owed.write()
                    if self._owed and self._owed.wait_ms() <= MAX_CLOSE_WAIT_MS:
                        self._sleep(self._session.hold_ms / 1000)
                        self._owed.write()
            self._session.close()
            if self._lock_file is not None:
                os.close(self._lock_file)
                self._lock_file = None

    # -- LeaseSource -------------------------------------------------------------------

    def acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        return self._or_denied(lambda: self._acquire(account, want_bytes))

    def would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        """Writes nothing but settlements that are owed; behind a store that failed, a lease
        that ends at once."""
        return self._or_denied(lambda: self._would_refuse(account, need_bytes))

    def settle(self, lease: Lease, used_bytes: int) -> None:
        """Errors: ``BudgetError`` where ``used_bytes`` is impossible. A settlement that cannot
        be written now is kept and written with the next call; until then the lease counts in
        full."""
        if not 0 <= used_bytes <= lease.size_bytes:
            raise BudgetError(f"{used_bytes} bytes used of a lease of {lease.size_bytes}")
        with self._lock:
            self._owed.add(lease.lease_id, used_bytes)
            self._settle_owed()

    # -- start and administration ------------------------------------------------------

    def recover_dead_leases(self) -> int:
        """Count every outstanding lease of this gate's name as spent; returns how many. Only
        at the start of a gate: the lock file says that the one before is gone."""
        with self._lock:
            self._session.ready()
            self._pending.clear()
            if self._session.store.shared:
                self._session.replica.reload()
            dead = self._session.state.leases_of(self._gate)
            if dead and self._session.hold_ms:
                self._wait_for_the_dead()
            for first in range(0, len(dead), BATCH_LEAVES):
                batch = dead[first : first + BATCH_LEAVES]
                self._session.write(partial(self._dead_leaves, batch), PATIENT_TRIES)
            return len(dead)

    @contextmanager
    def exclusive(self) -> Iterator[Session]:
        """The session, held against this process's other threads: for people's commands
        (``office``), which the gate never runs."""
        with self._lock:
            yield self._session

    def state(self) -> rules.State:
        """The rules' state as of now: read it, do not change it."""
        with self._lock:
            self._session.replica.reload()
            return self._session.state

    def credited(self, accounts: Collection[str]) -> tuple[int, int]:
        """Least and greatest position of this gate's tape on which credits of ``accounts`` rest,
        of those that ever had one, as the last visit to the log showed; 0 without any."""
        with self._lock:
            return credited_positions(self._session.state.nets, self._gate, accounts)

    def now_ms(self) -> int:
        """Ledger time. Errors: ``BudgetError``."""
        with self._lock:
            self._session.ready()
            return self._session.now_ms()

    # -- steps -------------------------------------------------------------------------

    def _or_denied(self, question: Callable[[], T]) -> T | Denied:
        """Its answer, or the reason that an error is."""
        with self._lock:
            try:
                return question()
            except BehindError as error:
                return Denied("behind", str(error))
            except WitnessError as error:
                self._session.distrust()
                return Denied("witness", str(error))
            except ClockError as error:
                return Denied("clock", str(error))
            except BudgetError as error:
                self._store_failed = True
                return Denied("store", str(error))

    def _would_refuse(self, account: str, need_bytes: int) -> Denied | None:
        session = self._session
        session.distrust()  # its word of now, not of the last lease
        session.ready()
        session.check_time()
        if self._store_failed:
            probe = self._acquire(account, need_bytes)
            if isinstance(probe, Denied):
                return probe
            self._owed.add(probe.lease_id, 0)
        self._owed.write()
        session.replica.reload()  # people may have raised the budget
        session.cosign()
        session.check_time()
        pending = session.state.leases.get(self._pending.get(account, b"").hex())
        lacking = need_bytes - (pending.size_bytes if pending is not None else 0)
        refusal = leaves.refusal(session.state, account, lacking, session.now_ms())
        return None if refusal is None else self._denied(refusal)

    def _acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        session = self._session
        session.ready()
        session.check_time()
        lease_id = self._pending.get(account)
        held = session.state.leases.get(lease_id.hex()) if lease_id else None
        if lease_id is None or held is None or held.size_bytes > want_bytes:
            if lease_id is not None and held is not None:
                # Given up for good: handed out after all, it would be spent and returned.
                del self._pending[account]
                self._owed.add(lease_id, 0)
            refusal = self._write_lease(account, want_bytes)
            if lease_id is not None and lease_id.hex() in session.state.leases:
                self._owed.add(lease_id, 0)  # written late, by a request that was given up
            if refusal is not None:
                return self._denied(refusal)
            lease_id = self._pending[account]
        session.cosign()
        session.check_time()  # of this very decision: only now the witness has said its own
        del self._pending[account]
        held = session.state.leases.get(lease_id.hex())  # cosign may have read a newer log
        if held is None:
            return Denied("store", "the lease ended before it was cosigned")
        self._store_failed = False
        return Lease(lease_id, account, held.size_bytes)

    def _write_lease(self, account: str, want_bytes: int) -> leaves.Refusal | None:
        self._owed.write()
        session, refusals = self._session, list[leaves.Refusal]()
        lease_id = self._pending[account] = session.random_bytes(rules.ID_BYTES)

        def decide() -> list[bytes]:
            decision = self._lease_leaf(account, want_bytes, lease_id)
            if isinstance(decision, leaves.Refusal) and not session.store.shared:
                session.replica.reload()  # people may have raised the budget
                decision = self._lease_leaf(account, want_bytes, lease_id)
            refusals[:] = [decision] if isinstance(decision, leaves.Refusal) else []
            return [] if isinstance(decision, leaves.Refusal) else [decision[0]]

        session.write(decide)
        if refusals:
            del self._pending[account]
            return refusals[0]
        return None

    def _lease_leaf(
        self, account: str, want_bytes: int, lease_id: bytes
    ) -> tuple[bytes, int] | leaves.Refusal:
        session, now_ms = self._session, self._session.now_ms()
        return leaves.lease_leaf(session.state, account, want_bytes, lease_id, self._gate, now_ms)

    def _settle_owed(self) -> None:
        """Write what settlements may be written, and see that the rest will be."""
        try:
            self._session.ready()
            self._owed.write()
        except WitnessError:
            self._session.distrust()
        except BudgetError:
            pass  # counted in full until a later call can write it
        if self._session.store.shared and self._owed and self._cancel is None:
            delay_s = self._owed.wait_ms() / 1000 or RETRY_S
            self._cancel = self._later(delay_s, self._settle_later)

    def _settle_later(self) -> None:
        with self._lock:
            self._cancel = None
            if not self._closed:
                self._settle_owed()

    def _wait_for_the_dead(self) -> None:
        # As with a settlement: the last bytes may have left just now, by a clock ahead of ours.
        hold_ms = self._session.hold_ms
        if hold_ms > MAX_DEAD_WAIT_MS:
            raise ClockError(
                f"this machine's clock is {hold_ms // 1000} s behind the witness's",
                "restart the machine",
            )
        self._sleep(hold_ms / 1000)

    def _dead_leaves(self, lease_ids: list[str]) -> list[bytes]:
        state, now_ms = self._session.state, self._session.now_ms()
        return [leaves.dead_leaf(state, i, now_ms) for i in lease_ids if i in state.leases]

    def _denied(self, refusal: leaves.Refusal) -> Denied:
        retry_s = None
        if refusal.free_at_ms is not None:
            retry_s = max(1, refusal.free_at_ms - self._session.now_ms()) / 1000
        return Denied(refusal.reason, refusal.detail, retry_s)
