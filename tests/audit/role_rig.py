"""A spool in memory, tapes under several leases, and an auditor whose storage dies on order."""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from audit.rig import KEY, played, records, strong, weak
from narrows.audit.auditor import AuditMemory, Rules, TapeAuditor
from narrows.audit.keybook import KeyBook
from narrows.audit.role.follow import TapeFollower
from narrows.audit.role.journal import AuditJournal
from narrows.audit.scorer import RuntimeScorer
from narrows.bench.audit.tape import tape_of
from narrows.errors import InputError
from narrows.wire.tape import Outward, TapeWriter

LEASE_BYTES = 64


class MemorySpool:
    """Chapters by nonce, as much of each as ``grow`` has let out."""

    def __init__(self, chapters: dict[bytes, bytes]) -> None:
        self.tapes = chapters
        self.known = {nonce: len(tape) for nonce, tape in chapters.items()}
        self.over = set(chapters)
        self.removed: dict[bytes, int] = {}

    def chapters(self) -> list[bytes]:
        return list(self.tapes)

    def base(self, nonce: bytes) -> int:
        before = list(self.tapes)[: list(self.tapes).index(nonce)]
        return sum(len(self.tapes[one]) for one in before)

    def read(self, nonce: bytes, offset: int) -> bytes:
        if nonce not in self.tapes or offset < self.removed.get(nonce, 0):
            raise InputError("removed")
        return self.tapes[nonce][offset : min(self.known[nonce], offset + 3000)]

    def ended(self, nonce: bytes) -> bool:
        return nonce in self.over


class Died(BaseException):
    """The process is killed here."""


def nonce_of(number: int) -> bytes:
    return hashlib.sha256(b"boot %d" % number).digest()


@functools.cache
def chapter(number: int, answers: int = 4, tokens: int = 24) -> bytes:
    """A tape of a boot of its own, under a lease for each ``LEASE_BYTES`` that were paid."""
    # Noise keys of two chapters differ, else the second explains nothing.
    part = played(3 * answers, tokens)[number * answers : (number + 1) * answers]
    writer = TapeWriter(nonce_of(number))
    tape, paid = writer.header, 0
    for record in records(tape_of(weak(), part)):
        if isinstance(record, Outward):
            record = replace(record, lease=lease_of(number, paid // LEASE_BYTES))
            paid += record.paid_bytes
        tape += writer.put(record)
    return tape


def lease_of(number: int, index: int) -> bytes:
    return hashlib.sha256(b"lease %d %d" % (number, index)).digest()[:16]


def chapters(count: int = 2) -> dict[bytes, bytes]:
    return {nonce_of(number): chapter(number) for number in range(count)}


def paid_by_lease(count: int = 2) -> dict[bytes, int]:
    found: dict[bytes, int] = {}
    for number in range(count):
        for record in records(chapter(number)):
            if isinstance(record, Outward):
                found[record.lease] = found.get(record.lease, 0) + record.paid_bytes
    return found


class CountingScorer(RuntimeScorer):
    """Says how often each context was scored; ``die_at``: is killed in that scoring."""

    def __init__(self) -> None:
        super().__init__(strong())
        self.scored: dict[tuple[int, ...], int] = {}
        self.die_at = -1

    def rows(self, context, tokens):  # type: ignore[no-untyped-def]
        name = (*context, *tokens)
        self.scored[name] = self.scored.get(name, 0) + 1
        if sum(self.scored.values()) - 1 == self.die_at:
            raise Died
        yield from super().rows(context, tokens)


class Killer:
    """Ends transactions; dies in the ``allowed``-th more, before it is durable or behind it."""

    def __init__(self, allowed: int, durable: bool) -> None:
        self.allowed, self.durable = allowed, durable
        self.db: sqlite3.Connection | None = None

    def __call__(self, db: sqlite3.Connection) -> None:
        self.db = db
        self.allowed -= 1
        if self.allowed < 0 and not self.durable:
            raise Died
        db.commit()
        if self.allowed < 0:
            raise Died

    def bury(self) -> None:
        """What the kernel does with a dead process's file."""
        if self.db is not None:
            self.db.close()


def follower(
    spool: MemorySpool,
    path: Path,
    rules: Rules | None = None,
    scorer: RuntimeScorer | None = None,
    commit: Callable[[sqlite3.Connection], None] = sqlite3.Connection.commit,
) -> tuple[TapeFollower, AuditJournal]:
    rules = rules or Rules()
    scorer = scorer or RuntimeScorer(strong())

    def make(memory: AuditMemory, keys: KeyBook) -> TapeAuditor:
        weaks = {weak().digest: weak()}
        return TapeAuditor(scorer, weaks, rules, KEY, memory=memory, keys=keys)

    journal = AuditJournal(path, f"{rules}", commit)
    return TapeFollower(spool, make, journal, {}), journal


def run_out(one: TapeFollower) -> None:
    while one.step():
        pass
