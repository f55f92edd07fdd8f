"""The ledger of one gate: rules, store, log and witness behind ``LeaseSource``.

Order of a lease (law 1):
1. the rules allow it at the ledger's time;
2. its leaf and a signed head are appended, durably, if nobody else appended meanwhile;
3. the witness cosigns a head that contains it;
4. only then ``acquire`` returns it.

Whatever fails in between, the next call starts from the store: a lease whose write had an
unknown outcome is looked up by its id, and returned once it is durable and cosigned, or was
never written. A lease that was never returned is outstanding, so it counts as spent.

Opening runs the same path: load, replay, compare with the witness's live answer; a ledger
that is shorter than, or differs from, what the witness cosigned refuses with ``behind``.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger import note, rules
from narrows.ledger.api import Denied, Lease
from narrows.ledger.balances import Balances, balances_of
from narrows.ledger.clock import Clock, ClockError, LedgerTime, SystemClock
from narrows.ledger.codec import Document
from narrows.ledger.keys import load_private
from narrows.ledger.replica import BehindError, Replica
from narrows.ledger.sqlite_store import SqliteStore
from narrows.ledger.store import ConflictError, Head, Store, StoreError
from narrows.ledger.witness import NONCE_BYTES, Latest, WitnessError, parse_latest

MAX_TRIES = 16  # appends that lost the race against other processes
BATCH_LEASES = 1024


class WitnessClient(Protocol):
    """A witness, wherever it runs. All raise ``WitnessError``."""

    verifier: note.Verifier

    def cosign(self, old: int, proof: list[bytes], signed: bytes) -> bytes: ...

    def latest(self, origin: str, nonce: bytes) -> bytes: ...

    def recover(self, leaf: bytes, path: list[bytes], signed: bytes) -> bytes: ...

    def set_operators(self, leaf: bytes) -> None: ...


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
        self._store = store
        self._witness = witness
        self._gate = gate
        self._clock = clock or SystemClock()
        self._random = random_bytes
        self._replica = Replica(store, log_key.public_key().public_bytes_raw(), log_key)
        self._time: LedgerTime | None = None
        self._cosigned_size = -1  # of the head that the witness holds; -1: ask it
        self._cosigned: Head | None = None  # not written yet
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
        ledger._lock_file = _lock(directory / f"{gate}.lock")
        try:
            ledger._replica.reload()
            ledger._check_witness_key()
        except BudgetError:
            ledger.close()
            raise
        return ledger

    def close(self) -> None:
        self._store.close()
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
                self._cosigned_size = -1
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
                self._ready()
                self._append_settlements()
            except BudgetError:
                return  # counted in full until a later call can write it

    # -- start and administration ------------------------------------------------------

    def recover_dead_leases(self) -> int:
        """Count every outstanding lease of this gate's name as spent; returns how many. Only
        at the start of a gate: the lock file says that the one before is gone."""
        with self._lock:
            self._ready()
            self._pending.clear()
            dead = self._replica.state.leases_of(self._gate)
            for first in range(0, len(dead), BATCH_LEASES):
                self._write(partial(self._dead_leaves, dead[first : first + BATCH_LEASES]))
            return len(dead)

    def apply_change(self, document: Document, signatures: list[list[str]]) -> int:
        """Append a signed change; returns its position in the log. Errors: ``BudgetError``."""
        with self._lock:
            self._ready()
            self._write(lambda: [self._checked_change(document, signatures)])
            position = self._replica.state.last_change[0]
            if document.get("kind") == "operators" and self._witness is not None:
                (leaf,) = self._store.leaves(position, position + 1)
                self._witness.set_operators(leaf)
            self._cosign()  # else a lowering could be rolled back
            return position

    def state(self) -> rules.State:
        """The rules' state as of now: read it, do not change it."""
        with self._lock:
            self._replica.reload()
            return self._replica.state

    def balances(self) -> Balances:
        """Every balance as of now."""
        with self._lock:
            self._ready()
            return balances_of(self._replica.state, self._replica.state.clamp(self._now_ms()))

    def now_ms(self) -> int:
        """Ledger time. Errors: ``ClockError``, and those of opening."""
        with self._lock:
            self._ready()
            return self._replica.state.clamp(self._now_ms())

    # -- steps -------------------------------------------------------------------------

    def _acquire(self, account: str, want_bytes: int) -> Lease | Denied:
        self._ready()
        lease_id = self._pending.get(account)
        held = self._replica.state.leases.get(lease_id.hex()) if lease_id else None
        if lease_id is None or held is None or held.size_bytes > want_bytes:
            if lease_id is not None and held is not None:
                self._unsettled[lease_id] = 0  # written but never handed out: nothing left
            refusal = self._write_lease(account, want_bytes)
            if refusal is not None:
                return self._refused(refusal)
            lease_id = self._pending[account]
            held = self._replica.state.leases[lease_id.hex()]
        self._cosign()
        del self._pending[account]
        return Lease(lease_id, account, held.size_bytes)

    def _write_lease(self, account: str, want_bytes: int) -> rules.Refusal | None:
        self._append_settlements()
        lease_id = self._pending[account] = self._random(rules.ID_BYTES)
        refusals: list[rules.Refusal] = []

        def decide() -> list[bytes]:
            state = self._replica.state
            if lease_id.hex() in state.leases:  # an earlier try did reach the disk
                return []
            decision = rules.lease_leaf(
                state, account, want_bytes, lease_id, self._gate, self._now_ms()
            )
            if isinstance(decision, rules.Refusal):
                refusals.append(decision)
                return []
            return [decision[0]]

        self._write(decide)
        if refusals:
            del self._pending[account]
            return refusals[-1]
        return None

    def _dead_leaves(self, lease_ids: list[str]) -> list[bytes]:
        state, now_ms = self._replica.state, self._now_ms()
        return [rules.dead_leaf(state, i, now_ms) for i in lease_ids if i in state.leases]

    def _append_settlements(self) -> None:
        if not self._unsettled:
            return
        self._write(self._settlements)
        self._unsettled.clear()

    def _settlements(self) -> list[bytes]:
        state, now_ms = self._replica.state, self._now_ms()
        leaves = [rules.settle_leaf(state, i, n, now_ms) for i, n in self._unsettled.items()]
        return [leaf for leaf in leaves if leaf is not None]

    def _write(self, decide: Callable[[], list[bytes]]) -> None:
        """Append what ``decide`` says of the newest state; decide again if others came first."""
        for _ in range(MAX_TRIES):
            leaves = decide()
            if not leaves:
                return
            try:
                # Where this raises StoreError the outcome is unknown: the replica is void, and
                # the next call reads what is there.
                self._replica.append(leaves, self._cosigned)
                self._cosigned = None
                return
            except ConflictError:
                self._replica.reload()
        raise StoreError(f"other processes kept appending through {MAX_TRIES} tries")

    def _checked_change(self, document: Document, signatures: list[list[str]]) -> bytes:
        state = rules.State.from_snapshot(self._replica.state.snapshot())
        leaf = rules.change_leaf(state, document, signatures, self._now_ms())
        state.apply(leaf)  # on a copy: a refused change must not touch the real state
        return leaf

    def _ready(self) -> None:
        """Up to date, not behind the witness, with a time: what every operation needs."""
        if self._replica.void:
            self._replica.reload()
        latest = self._ask_witness() if self._cosigned_size < 0 else None
        if self._time is None:
            self._start_clock(latest)

    def _ask_witness(self) -> Latest | None:
        if self._witness is None:
            self._cosigned_size = 0
            return None
        replica, nonce = self._replica, self._random(NONCE_BYTES)
        answer = self._witness.latest(replica.state.origin, nonce)
        latest = parse_latest(answer, self._witness.verifier, replica.state.origin, nonce)
        if latest.size > replica.state.size:
            replica.reload()  # another process may have appended
        if latest.size > replica.state.size:
            raise BehindError(
                f"the witness cosigned {latest.size} leaves, the ledger has {replica.state.size}",
                "it was rolled back or restored: see narrows ledger recover",
            )
        if replica.root_at(latest.size) != latest.root:
            raise BehindError(
                f"the ledger's first {latest.size} leaves are not those that the witness cosigned",
                "it was rolled back and went on: see narrows ledger recover",
            )
        self._cosigned_size = latest.size
        return latest

    def _start_clock(self, latest: Latest | None) -> None:
        state, boot_id, boot_ms = self._replica.state, self._clock.boot_id(), self._clock.boot_ms()
        if state.anchor.boot_id != boot_id:
            time_ms = state.clamp(latest.time_ms if latest is not None else 0)
            self._write(lambda: [rules.open_leaf(state, boot_id, boot_ms, time_ms)])
        self._time = LedgerTime(self._clock, self._replica.state.anchor)

    def _now_ms(self) -> int:
        if self._time is None:
            raise ClockError("the ledger has no time yet")
        return self._time.now_ms()

    def _cosign(self) -> None:
        """Step 3: the witness signs a head that holds all leaves known now."""
        replica, witness, needed = self._replica, self._witness, self._replica.state.size
        for _ in range(MAX_TRIES):
            if witness is None or self._cosigned_size >= needed:
                return
            try:
                old = self._cosigned_size
                line = witness.cosign(old, replica.consistency(old), replica.note)
            except WitnessError as error:
                if error.size is None:
                    raise
                self._ask_witness()  # another process had a later head cosigned
                continue
            text, lines = replica.checkpoint().text(), note.parse_lines(line.decode())
            if note.find_signature(text, lines, witness.verifier) is None:
                raise WitnessError("the witness did not sign the head that it was given")
            self._cosigned_size = replica.state.size
            self._cosigned = Head(replica.state.size, replica.note + line)
            replica.tree.prune(self._cosigned_size)
        if self._cosigned_size < needed:
            raise WitnessError(f"the witness's head kept moving through {MAX_TRIES} tries")

    def _check_witness_key(self) -> None:
        expected = self._replica.state.witness_key
        given = self._witness.verifier.public.hex() if self._witness is not None else ""
        if expected and expected != given:
            raise BudgetError(
                "the ledger names another witness" if given else "the ledger needs its witness",
                f"start narrows witness with the key {expected[:16]}…",
            )

    def _refused(self, refusal: rules.Refusal) -> Denied:
        retry_s = None
        if refusal.free_at_ms is not None:
            retry_s = max(1, refusal.free_at_ms - self._replica.state.clamp(self._now_ms())) / 1000
        return Denied(refusal.reason, refusal.detail, retry_s)


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
