"""An auditor, a gate's ledger and a poster at one desk: what up starts, without processes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from audit.rig import played, records, weak
from audit.role_rig import MemorySpool, follower, nonce_of
from narrows.audit.role.config import AuditConfig
from narrows.audit.role.journal import AuditJournal
from narrows.audit.role.keys import AuditorKeys
from narrows.audit.role.serve import AuditRole, Mandate
from narrows.bench.audit.tape import tape_of
from narrows.deploy.poster import CreditPoster
from narrows.ledger.api import Lease
from narrows.ledger.auditors import Enrolment
from narrows.ledger.changes import parse_change
from narrows.ledger.ledger import Ledger
from narrows.ledger.net import Net
from narrows.ledger.office.balances import read_state
from narrows.ledger.office.demo import audit_demo, create_demo
from narrows.ledger.office.setup import open_witness
from narrows.ledger.rules import State
from narrows.ledger.stores.place import OPERATOR, LedgerPlace
from narrows.wire.tape import Outward, TapeWriter
from narrows.wire.verdict import ViewReader

SIZE = 256
GRAIN_BYTES, LEASE_BYTES = 16, 25
PINS = "22" * 32


class Desk:
    """``state``: a demonstration's state folder, made here. The gate has served two boots."""

    def __init__(self, state: Path, close: Callable[[], None] | None = None) -> None:
        self.state, self.close = state, close
        self.keys = AuditorKeys(Ed25519PrivateKey.generate(), b"c" * 32, b"t" * 32)
        create_demo(state, 1_000_000)
        document = audit_demo(state, "gate", self.keys.public.hex(), PINS, GRAIN_BYTES)
        body = parse_change(document).body
        assert isinstance(body, Enrolment)
        self.mandate = Mandate(document["origin"], "gate", body)
        self.spool = MemorySpool({nonce_of(n): self._served(n) for n in range(2)})

    def _served(self, number: int) -> bytes:
        """A chapter, paid with leases of the ledger, settled when used."""
        part = played(12, 60)[6 * number : 6 * number + 6]
        writer = TapeWriter(nonce_of(number))
        tape, used, lease = writer.header, 0, None
        with closing(Ledger.open(LedgerPlace(self.state), witness=open_witness(self.state))) as one:
            for record in records(tape_of(weak(), part)):
                if isinstance(record, Outward):
                    if lease is None or used + record.paid_bytes > lease.size_bytes:
                        if lease is not None:
                            one.settle(lease, used)
                        made = one.acquire("answers", max(LEASE_BYTES, record.paid_bytes))
                        assert isinstance(made, Lease)
                        lease, used = made, 0
                    used += record.paid_bytes
                    record = replace(record, lease=lease.lease_id)
                tape += writer.put(record)
            assert lease is not None
            one.settle(lease, used)
        return tape

    def ledger(self) -> Ledger:
        """As the poster opens it."""
        place = LedgerPlace(self.state)
        return Ledger.open(place, witness=open_witness(self.state), gate=OPERATOR)

    def now(self) -> State:
        return read_state(LedgerPlace(self.state))

    def net(self) -> Net:
        return self.now().nets["demo"]

    def poster(self) -> CreditPoster:
        place = LedgerPlace(self.state)
        return CreditPoster(place, self.ledger, "demo", "gate", SIZE, self.close, lambda: 1e9)

    def auditor(self, **options: object) -> tuple[AuditRole, AuditJournal]:
        """All that is on the tape is audited."""
        rules = self.mandate.rules
        one, journal = follower(self.spool, self.state / "j.db", rules, **options)  # type: ignore[arg-type]
        while one.step():
            pass
        config = AuditConfig(verdict_bytes=SIZE)
        return AuditRole(config, self.mandate, self.keys, one, journal), journal


def exchange(role: AuditRole, poster: CreditPoster) -> None:
    """One period."""
    views = {view.tag: view for view in ViewReader().feed(poster.views())}
    poster.take(role.compose(views))
