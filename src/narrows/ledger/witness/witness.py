"""The witness: remembers the newest head of each log and cosigns only what extends it.

In operation the order is fixed:
1. the checkpoint is signed by the log's key, and its size is not below the stored one;
2. the consistency proof from the stored head verifies;
   At the stored size the whole text must be the stored one, ``committed`` lines included;
3. the new head is on disk (SQLite, synchronous=FULL; compare and swap in the UPDATE);
4. only then the cosignature exists.
A crash between 3 and 4 leaves a head that no ledger acted on; the ledger asks again.

``latest`` answers with a nonce of the asker's, so that an old answer cannot be replayed.
``recover`` lets a restored ledger continue below the stored head: k of n operators must have
signed exactly this head away, and the new head must count all that was committed by then.

What someone who modifies witness.db can achieve: with the ledger rolled back at the same time,
leases granted twice. Hence another machine. With witness.key: the same.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger import changes
from narrows.ledger.keys import check_public
from narrows.ledger.log import note
from narrows.ledger.log.canonical import Fields, decode, encode, unhex
from narrows.ledger.log.merkle import (
    EMPTY_ROOT,
    check_consistency,
    check_inclusion,
    leaf_hash,
    root_before,
)
from narrows.ledger.stores.sqlite import FILE_ERRORS, checked, connect, make_durable

ANSWER_TITLE = "narrows.witness.latest/v1"
NONCE_BYTES = 32
WITNESS_NAME = "narrows.witness"
SCHEMA_VERSION = 1  # 0 where a narrows from before it was written made the file; the same tables

SCHEMA = """
CREATE TABLE log (
  origin TEXT PRIMARY KEY, log_key BLOB NOT NULL,
  operators BLOB NOT NULL, operators_at INTEGER NOT NULL,
  size INTEGER NOT NULL, root BLOB NOT NULL, note BLOB NOT NULL) STRICT;
CREATE TABLE time (
  id INTEGER PRIMARY KEY CHECK (id = 1), boot_id TEXT NOT NULL,
  boot_ms INTEGER NOT NULL, time_ms INTEGER NOT NULL) STRICT;
PRAGMA user_version = 1;
"""


def witness_verifier(public: bytes) -> note.Verifier:
    """How gates name a witness of this project: by its public key."""
    return note.Verifier(WITNESS_NAME, public, note.TYPE_COSIGNATURE)


class WitnessError(BudgetError):
    """The witness refuses. ``size``: what it holds, where that is the reason."""

    def __init__(self, message: str, remedy: str = "", size: int | None = None) -> None:
        super().__init__(message, remedy)
        self.size = size


class UnknownLogError(WitnessError):
    """The witness does not follow the log."""


class ForkError(WitnessError):
    """Another root than the stored one, at its size."""


@dataclass(frozen=True, slots=True)
class Latest:
    """The newest head that a witness cosigned. ``note`` is empty at size 0."""

    time_ms: int
    size: int
    root: bytes
    note: bytes


@dataclass(frozen=True, slots=True)
class _Log:
    key: bytes
    operators: changes.Operators
    operators_at: int
    size: int
    root: bytes
    note: bytes


class Witness:
    """One witness over one file. ``time_ms``: see ``clock``."""

    def __init__(
        self, path: Path, name: str, key: Ed25519PrivateKey, time_ms: Callable[[], int]
    ) -> None:
        self.verifier = note.Verifier(
            name, key.public_key().public_bytes_raw(), note.TYPE_COSIGNATURE
        )
        self._key, self._path, self._time_ms = key, path, time_ms
        self._lock = threading.Lock()
        try:
            self._db = connect(path, False)
            make_durable(self._db)
            ((version,),) = self._db.execute("PRAGMA user_version").fetchall()
        except FILE_ERRORS as error:
            raise WitnessError(f"cannot open {path}: {error}") from error
        if version not in (0, SCHEMA_VERSION):
            self._db.close()
            raise WitnessError(f"{path} has schema version {version}", "use a newer narrows")

    def close(self) -> None:
        self._db.close()

    def cosign(self, old: int, proof: Sequence[bytes], signed: bytes) -> bytes:
        """The cosignature line for a checkpoint that extends the stored head of ``old``
        leaves. Errors: ``WitnessError`` (with ``size`` where ``old`` is not the stored one)."""
        checkpoint = self._signed_checkpoint(signed)
        if old > checkpoint.size:
            raise note.NoteError("the old size is above the checkpoint's")
        with self._lock:
            log = self._log(checkpoint.origin)
            if old != log.size:
                raise WitnessError(f"the witness is at size {log.size}", size=log.size)
            if old == checkpoint.size and log.root != checkpoint.root:
                raise ForkError("the checkpoint has another root than the one of its size")
            if not check_consistency(old, checkpoint.size, log.root, checkpoint.root, proof):
                raise WitnessError("the checkpoint does not extend the one seen before")
            if checkpoint.size > log.size:
                self._store(checkpoint, signed, old, log.root)
            else:
                _require_same(checkpoint, log)
        return self._cosignature(checkpoint)

    def latest(self, origin: str, nonce: bytes) -> bytes:
        """A signed note: title, origin, nonce, time, size, root, then the stored note's lines."""
        if len(nonce) != NONCE_BYTES:
            raise WitnessError("a nonce has 32 bytes")
        with self._lock:
            log = self._log(origin)
        text = latest_text(
            origin, nonce, Latest(max(0, self._time_ms()), log.size, log.root, log.note)
        )
        return note.sign_note(text, self.verifier.name, self._key)

    def recover(self, leaf: bytes, path: Sequence[bytes], signed: bytes) -> bytes:
        """Accept a restored log. ``leaf``: its signed recovery, which ``path`` proves to be in
        the checkpoint ``signed``."""
        checkpoint = self._signed_checkpoint(signed)
        change, signed_by = _signed_change(leaf)
        with self._lock:
            log = self._log(checkpoint.origin)
            if (checkpoint.size, checkpoint.root) == (log.size, log.root):
                _require_same(checkpoint, log)
                return self._cosignature(checkpoint)  # the answer to it was lost
            body = change.body
            if not isinstance(body, changes.Recovery) or change.origin != checkpoint.origin:
                raise WitnessError("not a recovery of this log")
            self._require_valid(change)
            changes.require(log.operators, signed_by, log.operators.threshold)
            if body.witnessed != (log.size, log.root):
                raise WitnessError("the recovery gives up another head", "propose it again")
            if not check_inclusion(
                leaf_hash(leaf), body.base[0], checkpoint.size, path, checkpoint.root
            ):
                raise WitnessError("the recovery is not in the new head")
            if body.base[1] != root_before(body.base[0], checkpoint.size, path):
                raise WitnessError("the recovery was signed for other leaves", "propose it again")
            for lineage, count in _head(checkpoint.origin, log).committed.items():
                if checkpoint.committed.get(lineage, 0) < count:
                    raise WitnessError(f"the recovery does not count the gap of {lineage}")
            self._store(checkpoint, signed, log.size, log.root)
        return self._cosignature(checkpoint)

    def set_operators(self, leaf: bytes) -> None:
        """Follow a change of the operators, signed by k of those known so far."""
        change, signed_by = _signed_change(leaf)
        with self._lock:
            log = self._log(change.origin)
            body = change.body
            if not isinstance(body, changes.OperatorChange):
                raise WitnessError("not a change of operators")
            if change.after[0] < log.operators_at or body.operators == log.operators:
                return  # seen before
            self._require_valid(change)
            changes.check_operator_change(log.operators, body.operators, signed_by)
            self._execute(
                "UPDATE log SET operators = ?, operators_at = ?"
                " WHERE origin = ? AND operators_at = ?",
                (_operators(body.operators), change.after[0] + 1, change.origin, log.operators_at),
            )

    def add_log(self, origin: str, log_key: bytes, operators: changes.Operators) -> None:
        """Follow a log. Only on the witness's own machine; never over the network."""
        check_public(log_key, "the log's key")
        row = (origin, log_key, _operators(operators), 0, 0, EMPTY_ROOT, b"")
        with self._lock:
            if self._execute("SELECT 1 FROM log WHERE origin = ?", (origin,)):
                raise WitnessError(f"the witness follows {origin} already")
            self._execute("INSERT INTO log VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def logs(self) -> dict[str, int]:
        """Origin to size of all logs followed."""
        with self._lock:
            return {str(o): int(s) for o, s in self._execute("SELECT origin, size FROM log")}

    def _require_valid(self, change: changes.Change) -> None:
        # As in the rules: what the ledger refuses must not move the witness either.
        if change.not_after_ms < self._time_ms():
            raise WitnessError("the change has expired", "propose it again")

    def _signed_checkpoint(self, signed: bytes) -> note.Checkpoint:
        checkpoint = note.parse_checkpoint(note.open_note(signed)[0])
        with self._lock:
            key = self._log(checkpoint.origin).key
        note.verify_note(signed, note.log_verifier(checkpoint.origin, key))
        return checkpoint

    def _cosignature(self, checkpoint: note.Checkpoint) -> bytes:
        time_s = max(0, self._time_ms()) // 1000
        return note.cosignature_line(checkpoint.text(), self.verifier.name, self._key, time_s)

    def _store(self, new: note.Checkpoint, signed: bytes, old: int, old_root: bytes) -> None:
        # The old head is in the WHERE: with two requests (or two processes on one file) in
        # flight, the later one must not put an older head over a newer one.
        changed = self._execute(
            "UPDATE log SET size = ?, root = ?, note = ? WHERE origin = ? AND size = ? AND root = ?"
            " RETURNING size",
            (new.size, new.root, signed, new.origin, old, old_root),
        )
        if not changed:
            size = self._log(new.origin).size
            raise WitnessError(f"another checkpoint, of size {size}, came first", size=size)

    def _log(self, origin: str) -> _Log:
        rows = self._execute(
            "SELECT log_key, operators, operators_at, size, root, note FROM log WHERE origin = ?",
            (origin,),
        )
        if not rows:
            raise UnknownLogError(f"the witness does not follow {origin}")
        checked(rows, (bytes, bytes, int, int, bytes, bytes), self._path)
        key, operators, operators_at, size, root, stored = rows[0]
        fields = Fields(decode(operators), "operators")
        return _Log(key, changes.parse_operators(fields), operators_at, size, root, stored)

    def _execute(self, statement: str, values: tuple[object, ...] = ()) -> list[tuple]:  # type: ignore[type-arg]  # rows of any shape
        try:
            return self._db.execute(statement, values).fetchall()
        except FILE_ERRORS as error:
            raise WitnessError(f"the witness's disk or database failed: {error}") from error


def _head(origin: str, log: _Log) -> note.Checkpoint:
    if not log.note:
        return note.Checkpoint(origin, log.size, log.root)
    return note.parse_checkpoint(note.open_note(log.note)[0])


def _require_same(checkpoint: note.Checkpoint, log: _Log) -> None:
    # Lower sums over the same leaves would shrink the gap that a later recovery counts.
    if checkpoint.text() != _head(checkpoint.origin, log).text():
        raise WitnessError("the checkpoint commits other sums than the one seen before")


def _operators(operators: changes.Operators) -> bytes:
    return encode({"keys": list(operators.keys), "threshold": operators.threshold})


def _signed_change(leaf: bytes) -> tuple[changes.Change, frozenset[str]]:
    document = decode(leaf)
    change = document.get("change")
    if document.get("t") != "change" or not isinstance(change, dict):
        raise WitnessError("the leaf is not a change")
    return changes.parse_change(change), changes.signers(change, document.get("signatures"))


def latest_text(origin: str, nonce: bytes, latest: Latest) -> str:
    """What the witness signs on ``latest``; no checkpoint starts with this title."""
    head = encode(
        {
            "title": ANSWER_TITLE,
            "origin": origin,
            "nonce": nonce.hex(),
            "time_ms": latest.time_ms,
            "size": latest.size,
            "root": latest.root.hex(),
            "note": latest.note.hex(),
        }
    )
    return f"{ANSWER_TITLE}\n{head.decode()}\n"


def parse_latest(signed: bytes, witness: note.Verifier, origin: str, nonce: bytes) -> Latest:
    """Check a live answer: the witness's signature, our nonce, our log."""
    plain = note.Verifier(witness.name, witness.public)
    lines = note.verify_note(signed, plain).split("\n")
    if len(lines) != 3 or lines[0] != ANSWER_TITLE:
        raise WitnessError("the witness's answer is malformed")
    fields = Fields(decode(lines[1].encode()), "the witness's answer")
    fresh = (fields.text("title"), fields.text("origin"), fields.text("nonce"))
    if fresh != (ANSWER_TITLE, origin, nonce.hex()):
        raise WitnessError("the witness's answer is for another question")
    encoded = fields.text("note", 2 * note.MAX_NOTE_BYTES)
    stored = unhex(encoded, len(encoded) // 2)
    if stored is None:
        raise fields.bad("note")
    latest = Latest(
        fields.integer("time_ms"), fields.integer("size"), fields.hex("root", 32), stored
    )
    fields.done()
    return latest
