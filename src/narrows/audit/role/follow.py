"""Following a gate's spool: chapters in order, each byte audited once, whatever kills this.

A step reads a little, audits it and shows what may be credited. Where no link is open, and at a
chapter's end, the whole state goes into the journal; a restart goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Protocol

from narrows.audit.auditor import AuditMemory, TapeAuditor
from narrows.audit.keybook import KeyBook
from narrows.audit.role.journal import AuditJournal, TapeChanged
from narrows.audit.role.leases import LeaseBook
from narrows.audit.role.state import auditor_state, restore_auditor
from narrows.errors import InputError
from narrows.wire.tape import TapeReader, TapeRest
from narrows.wire.verdict import BEHIND, HALTED, NO_SPOOL, OTHER_WEIGHTS, RAISED

PIECE_BYTES = 1 << 12
"""Audited between two looks at whether to stop: some segments at most."""

MakeAuditor = Callable[[AuditMemory, KeyBook], TapeAuditor]


class Spool(Protocol):
    """As ``wire/spool/reader.py``. All of it raises ``InputError``."""

    def chapters(self) -> list[bytes]:
        """Boot nonces, oldest first."""

    def base(self, nonce: bytes) -> int:
        """Bytes of all tapes before this chapter's."""

    def read(self, nonce: bytes, offset: int) -> bytes:
        """What there is of a chapter's tape from ``offset`` on, in pieces; empty at its end."""

    def ended(self, nonce: bytes) -> bool:
        """Whether the chapter grows no more. Ask before ``read``."""


@dataclass(frozen=True, slots=True)
class Audited:
    """What may be said of the tape so far. ``position``: bytes of all tapes through the last
    moment without open links, which a restart does not need; ``read``: through what is audited,
    ``tape`` its digest. ``leases``: by account, as ``LeaseBook.explained``."""

    position: int = 0
    read: int = 0
    tape: bytes = bytes(32)
    alarms: int = BEHIND
    credit_bytes: int = 0
    paid_bytes: int = 0
    tokens: int = 0
    segments: int = 0
    why: str = ""
    leases: Mapping[str, Mapping[bytes, tuple[int, int]]] = field(default_factory=dict)


class TapeFollower:
    """One thread calls ``step``; any may read ``now``. Errors of the constructor: those of the
    journal."""

    def __init__(
        self, spool: Spool, make: MakeAuditor, journal: AuditJournal, ports: Mapping[str, str]
    ) -> None:
        self._spool, self._journal = spool, journal
        keys = KeyBook()
        for key, use in journal.seen():
            keys.put(key, use)
        self.auditor = make(journal, keys)
        self.leases = LeaseBook(ports)
        self.now = Audited()
        self._nonce: bytes | None = None
        self._data = b""
        self._offset = 0  # in the chapter, of what is read
        self._base = 0
        self._position = 0  # of the last rest
        self._rest_digest = bytes(32)
        self._digest = sha256()
        self._halted = ""
        self._saved_segments = 0
        self._resume()

    # -- steps -------------------------------------------------------------------------

    def step(self) -> bool:
        """A piece of the tape. False: there is nothing new, or it cannot be read now."""
        if self._halted:
            return False
        try:
            more = self._step()
        except TapeChanged as error:
            self._halted = error.message
            self._show(HALTED, error.message)
            return False
        except InputError as error:  # the spool's: it may come back, or another chapter begins
            self._show(NO_SPOOL, error.message)
            return self._give_up_if_gone()
        self._show(0 if not more and not self._journal.behind else BEHIND, "")
        return more

    def _step(self) -> bool:
        nonce = self._nonce
        if nonce is None:
            following = [one for one in self._spool.chapters() if not self._journal.is_done(one)]
            if not following:
                return False
            self._begin(following[0])
            return True
        if not self._data:
            ended = self._spool.ended(nonce)
            self._data = self._spool.read(nonce, self._offset)
            if not self._data:
                if ended:
                    self._finish(nonce)
                return ended
        piece, self._data = self._data[:PIECE_BYTES], self._data[PIECE_BYTES:]
        self._take(nonce, piece)
        return True

    def _take(self, nonce: bytes, piece: bytes) -> None:
        reader = self.auditor.replay.reader
        try:
            records = reader.feed(piece)
        except InputError:  # from here on the chapter is no tape: all of it counts in full
            self._finish(nonce)
            return
        if reader.boot_nonce not in (b"", nonce):  # its coins would be another chapter's
            self._finish(nonce)
            return
        self._digest.update(piece)
        self._offset += len(piece)
        for record in records:
            self.leases.take(record)
            for growth in self.auditor.step(record):
                self.leases.explain(growth)
            self.leases.over(record)
        rest = reader.rest()
        if rest is not None and self.auditor.tally.segments > self._saved_segments:
            self._save(rest, None)

    # -- chapters ----------------------------------------------------------------------

    def _begin(self, nonce: bytes) -> None:
        self._nonce, self._offset, self._data = nonce, 0, b""
        self._base = self._spool.base(nonce)
        self._journal.begin(nonce)
        self.auditor.replay.next_tape(TapeReader())

    def _finish(self, nonce: bytes) -> None:
        """The chapter is over, or no more of it can be audited."""
        if self._journal.behind:
            raise TapeChanged("the tape ends before what was audited")
        self.auditor.replay.end()
        self.leases.close_links()
        self._save(None, nonce)
        self._nonce = None

    def _give_up_if_gone(self) -> bool:
        """Whether the chapter was given up: a later one is there, so no more of it comes."""
        try:
            chapters = self._spool.chapters()
        except InputError:
            return False
        if self._nonce is None or chapters[-1:] in ([], [self._nonce]):
            return False
        if self._journal.behind:
            self._halted = "the part of the tape that was being audited is gone"
            self._show(HALTED, self._halted)
            return False
        self._finish(self._nonce)
        return True

    def _save(self, rest: TapeRest | None, done: bytes | None) -> None:
        self._rest_digest = self._digest.digest()
        self._digest = sha256(self._rest_digest)
        self._position = self._base + self._offset
        state = {
            "auditor": auditor_state(self.auditor),
            "leases": self.leases.state(),
            "position": self._position,
            "digest": self._rest_digest.hex(),
            "rest": None
            if rest is None
            else [rest.boot_nonce.hex(), rest.position, rest.next_link, rest.moment_ns],
        }
        self._journal.save(state, self.auditor.replay.keys.take_changes(), done)
        self._saved_segments = self.auditor.tally.segments

    def _resume(self) -> None:
        state = self._journal.rest()
        if state is None:
            return
        restore_auditor(self.auditor, state["auditor"])
        self.leases.restore(state["leases"])
        self._position = self._base = state["position"]
        self._rest_digest = bytes.fromhex(state["digest"])
        self._digest = sha256(self._rest_digest)
        self._saved_segments = self.auditor.tally.segments
        if state["rest"] is not None:
            nonce, self._offset, *more = state["rest"]
            self._base = self._position - self._offset
            self._nonce = bytes.fromhex(nonce)
            self._journal.begin(self._nonce)
            rest = TapeRest(self._nonce, self._offset, *more)
            self.auditor.replay.next_tape(TapeReader.resumed(rest))

    # -- what is shown -----------------------------------------------------------------

    def _show(self, alarms: int, why: str) -> None:
        """Nothing is creditable until the journal's rows are all met again: what was said before
        the restart rests on them."""
        auditor = self.auditor
        alarms |= RAISED if auditor.alarm.raised else 0
        alarms |= OTHER_WEIGHTS if auditor.other_weights else 0
        said = self._halted or self._journal.behind
        self.now = Audited(
            self._position,
            self._base + self._offset,
            self._digest.copy().digest(),
            alarms,
            auditor.credit_bytes,
            auditor.replay.paid_bytes,
            auditor.tally.tokens,
            auditor.tally.segments,
            why,
            {} if said else self.leases.explained(),
        )
