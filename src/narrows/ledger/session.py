"""One process's hold on a ledger: its replica, its witness, its time.

Opening and recovery run the same path, ``ready``: catch up with the store, compare with the
witness's live answer, take time from this boot's anchor. A ledger that is shorter than, or
differs from, what the witness cosigned is refused with ``BehindError``.

Not thread-safe: ``Ledger`` holds a lock around it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger import rules
from narrows.ledger.clock import (
    TOLERANCE_MS,
    Clock,
    ClockError,
    LedgerTime,
    SharedTime,
    WitnessedTime,
)
from narrows.ledger.keys import public_of
from narrows.ledger.leaves import open_leaf
from narrows.ledger.log import note
from narrows.ledger.replica import BehindError, Replica
from narrows.ledger.stores.store import ConflictError, Head, Store, StoreError
from narrows.ledger.witness.witness import NONCE_BYTES, Latest, WitnessError, parse_latest

MAX_TRIES = 16  # races lost against other processes
PATIENT_TRIES = 512  # what people do, and a gate's start, must not starve behind busy gates


class WitnessClient(Protocol):
    """A witness, wherever it runs. All raise ``WitnessError``."""

    verifier: note.Verifier

    def cosign(self, old: int, proof: list[bytes], signed: bytes) -> bytes: ...

    def latest(self, origin: str, nonce: bytes) -> bytes: ...

    def recover(self, leaf: bytes, path: list[bytes], signed: bytes) -> bytes: ...

    def set_operators(self, leaf: bytes) -> None: ...


class Session:
    """``replica`` is what this process knows; see ``Ledger`` for the arguments."""

    def __init__(
        self,
        store: Store,
        log_key: Ed25519PrivateKey,
        witness: WitnessClient | None,
        clock: Clock,
        random_bytes: Callable[[int], bytes],
        gate: str,
    ) -> None:
        self.store = store
        self.witness = witness
        self.random_bytes = random_bytes
        self.replica = Replica(store, public_of(log_key), log_key)
        self._gate = gate if store.shared else None  # whose anchor; None: one machine's
        self._clock = clock
        self._time: LedgerTime | None = None
        self._ahead_ms = 0  # by how much time was ahead of the witness's, when it last answered
        self._cosigned_size = -1  # of the head that the witness holds; -1: ask it
        self._cosigned: Head | None = None  # not written yet

    @property
    def state(self) -> rules.State:
        return self.replica.state

    def ready(self) -> None:
        """What every operation needs first. Errors: ``BudgetError``."""
        if self.replica.void:
            self.replica.reload()
        latest = self._compare() if self._cosigned_size < 0 else None
        if self._time is None:
            self._time = self._start_clock(latest)
        if self.stale:
            self._ask_time()

    @property
    def stale(self) -> bool:
        """Whether ``ready`` will ask the witness for the time."""
        return isinstance(self._time, WitnessedTime) and (
            self._time.stale or self._ahead_ms > TOLERANCE_MS
        )

    def check_time(self) -> None:
        """``ClockError`` where time was ahead of the witness's at its last answer, be it the one
        that a decision was made at or the log's: nothing may be granted then. The next ``ready``
        asks again."""
        if self._ahead_ms > TOLERANCE_MS:
            raise ClockError(
                f"the ledger's time was {self._ahead_ms / 1000:.1f} s ahead of the witness's",
                "this ends when the witness's has caught up; compare the clocks of both machines",
            )

    def distrust(self) -> None:
        """Ask the witness again before the next operation."""
        self._cosigned_size = -1

    def close(self) -> None:
        with suppress(StoreError):  # kept for readers of the log; the witness has it anyway
            if self._cosigned is not None:
                self.store.put_cosigned(self._cosigned)
        self.store.close()

    def now_ms(self) -> int:
        if self._time is None:
            raise ClockError("the ledger has no time yet")
        return self.state.clamp(self._time.now_ms())

    def boot_ms(self) -> int:
        return self._clock.boot_ms()

    @property
    def hold_ms(self) -> int:
        """How long after its bytes left a lease may be settled, in boot time."""
        return self._time.hold_ms if isinstance(self._time, SharedTime) else 0

    def write(self, decide: Callable[[], list[bytes]], tries: int = MAX_TRIES) -> None:
        """Append what ``decide`` says of the newest state; decide again if others came first.
        ``StoreError``: the outcome is unknown, the replica is void, and the next ``ready``
        reads what is there."""
        for attempt in range(tries):
            if attempt or self.store.shared:
                self.replica.reload()  # decided on an old state, most appends would conflict
            leaves = decide()
            if not leaves:
                return
            try:
                self.replica.append(leaves, self._cosigned)
            except ConflictError:
                continue
            self._cosigned = None
            return
        raise StoreError(f"other processes kept appending through {tries} tries")

    def cosign(self) -> None:
        """Have the witness sign a head that holds all leaves known now."""
        replica, witness, needed = self.replica, self.witness, self.state.size
        for _ in range(MAX_TRIES):
            if witness is None or self._cosigned_size >= needed:
                return
            old = self._cosigned_size
            try:
                line = witness.cosign(old, replica.consistency(old), replica.note)
            except WitnessError as error:
                if error.size is None:
                    raise
                self._compare()  # another process had a later head cosigned
                if self._cosigned_size == old:
                    raise WitnessError("the witness names another size than it signs") from error
                continue
            self.accept(line, witness.verifier)
        raise WitnessError(f"the witness's head kept moving through {MAX_TRIES} tries")

    def latest(self) -> Latest:
        """The witness's head now: its answer carries our nonce, so it cannot be an old one."""
        if self.witness is None:
            raise WitnessError("this ledger was opened without a witness")
        origin, nonce = self.state.origin, self.random_bytes(NONCE_BYTES)
        answer = self.witness.latest(origin, nonce)
        try:
            return parse_latest(answer, self.witness.verifier, origin, nonce)
        except BudgetError as error:
            raise WitnessError(f"the witness's answer is wrong: {error.message}") from error

    def check_witness_key(self) -> None:
        """The genesis names the witness: no flag takes it away or swaps it."""
        expected = self.state.witness_key
        if self.store.shared and not expected:
            raise BudgetError("a ledger of several machines needs a witness: it tells the time")
        given = self.witness.verifier.public.hex() if self.witness is not None else ""
        if expected and expected != given:
            raise BudgetError(
                "the ledger names another witness" if given else "the ledger needs its witness",
                f"give it the witness with the key {expected}",
            )

    def _compare(self) -> Latest | None:
        """Refuse to go on if the witness has seen more, or something else."""
        if self.witness is None:
            self._cosigned_size = 0
            return None
        self._cosigned_size = -1
        replica, known_ms = self.replica, self.state.time_ms
        latest = self.latest()
        self._compare_time(known_ms, latest.time_ms)
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

    def accept(self, line: bytes, verifier: note.Verifier) -> None:
        """Take the witness's signature line on this head, if it is one."""
        text = self.replica.checkpoint().text()
        if len(self.replica.note) + len(line) > note.MAX_NOTE_BYTES:
            raise WitnessError("the witness's cosignature is too long")
        try:
            signed = note.find_signature(text, note.parse_lines(line.decode()), verifier)
        except (BudgetError, UnicodeDecodeError) as error:
            raise WitnessError(f"the witness's cosignature is wrong: {error}") from error
        if signed is None:
            raise WitnessError("the witness did not sign the head that it was given")
        self._compare_time(self.state.time_ms, signed * 1000 + 999)  # whole seconds
        self._cosigned_size = self.state.size
        self._cosigned = Head(self.state.size, self.replica.note + line)
        self.replica.tree.prune(self._cosigned_size)

    def _ask_time(self) -> None:
        time, known_ms = self._time, self.state.time_ms
        if not isinstance(time, WitnessedTime):
            raise ClockError("the ledger has no time yet")
        asked_boot_ms = time.boot_ms()
        witness_ms = self.latest().time_ms
        gained_ms = time.renew(asked_boot_ms, witness_ms)
        self._compare_time(known_ms, witness_ms)
        self._ahead_ms = max(self._ahead_ms, gained_ms)

    def _compare_time(self, known_ms: int, witness_ms: int) -> None:
        """``known_ms``: the log's, from before the witness was asked."""
        time = self._time
        limit = time.ahead_ms if isinstance(time, WitnessedTime) else operator.sub
        self._ahead_ms = limit(known_ms, witness_ms)

    def _start_clock(self, latest: Latest | None) -> LedgerTime:
        """In a new boot, time is the witness's; in a known one, its anchor's."""
        boot_id = self._clock.boot_id()
        if self.state.anchor_of(self._gate, boot_id) is None:
            if latest is None and self.witness is not None:
                latest = self.latest()
            time_ms = latest.time_ms if latest is not None else 0
            # Read after the witness's answer: time may be behind by its way, never ahead.
            boot_ms = self._clock.boot_ms()
            self.write(lambda: [open_leaf(self.state, boot_id, boot_ms, time_ms, self._gate)])
        anchor = self.state.anchor_of(self._gate, boot_id)
        if anchor is None:
            raise ClockError("another process of this gate's name runs on another machine")
        if self._gate:
            return SharedTime(self._clock, anchor)
        kind = LedgerTime if self.witness is None else WitnessedTime
        return kind(self._clock, anchor)
