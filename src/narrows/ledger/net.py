"""The net budget: bytes that nobody could explain, and the credits that take the rest out.

A lineage may have a second limit beside its raw one. A lease counts against both when it is
granted. An auditor that operators enrolled recomputes what left, and signs how many bytes of a
settled lease it can explain; these come back to the net budget, and to nothing else. Pure: no
clock, disk or network. Laws 9 and 10 (docs/audit.md), as they are checked here:

    whole      net starts at what the raw budget has spent and holds; it grows by every lease
    settled    only a lease that was settled under this enrolment can be credited: none that is
               outstanding, dead or in a recovery's gap
    once       a credit takes its leases off the list of those that can be credited
    no more    than ``most_ppm`` of what the lease used
    in order   position and total only grow; ``previous`` is the total before, so a credit that
               is repeated, reordered or replayed after a rollback fits nowhere
    in its own window  bytes leave the window in which they were settled, if it still counts
               them, and no window goes below nothing

A lease falls off the list where ``MAX_CREDITABLE`` newer ones of its gate and account are
waiting, or where the ledger has ``MAX_WAITING`` in all and no list is longer: an auditor that is
that late loses credit, and nobody gains any. The lists are in every snapshot, so they are bounded.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from narrows.errors import BudgetError
from narrows.ledger.auditors import (
    EPOCH_BYTES,
    MAX_AUDITED_GATES,
    PPM,
    Enrolment,
    NetLimits,
    Terms,
    parse_terms,
)
from narrows.ledger.limits import BudgetMeter
from narrows.ledger.log.canonical import Document, Fields, encode, unhex
from narrows.publickey import is_signed

CREDIT_PREFIX = b"narrows credit v1\n"
MAX_CREDIT_LEASES = 512
MAX_CREDITABLE = 4096
MAX_WAITING = 1 << 16
LEASE_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class Credit:
    """Of bytes that left under ``leases`` (id in hex to bytes, ids ascending) so many are
    explained. ``position``: bytes of the tape that it rests on, ``tape`` their digest in hex;
    ``previous`` and ``total``: bytes credited in this epoch before and after."""

    origin: str
    lineage: str
    gate: str
    account: str
    epoch: str
    position: int
    tape: str
    previous: int
    total: int
    leases: tuple[tuple[str, int], ...]

    def document(self) -> Document:
        return {
            "origin": self.origin,
            "lineage": self.lineage,
            "gate": self.gate,
            "account": self.account,
            "epoch": self.epoch,
            "position": self.position,
            "tape": self.tape,
            "previous": self.previous,
            "total": self.total,
            "leases": [list(pair) for pair in self.leases],
        }


def parse_credit(document: object) -> Credit:
    """Errors: ``MalformedError``."""
    fields = Fields(document, "credit")
    origin, lineage = fields.text("origin"), fields.name("lineage")
    gate, account = fields.name("gate"), fields.name("account")
    epoch, tape = fields.hex("epoch", EPOCH_BYTES).hex(), fields.hex("tape", 32).hex()
    position, previous = fields.integer("position", 1), fields.integer("previous")
    total = fields.integer("total", 1)
    leases: list[tuple[str, int]] = []
    for pair in fields.items("leases", MAX_CREDIT_LEASES):
        if not isinstance(pair, list) or len(pair) != 2 or unhex(pair[0], LEASE_ID_BYTES) is None:
            raise fields.bad("leases")
        if type(pair[1]) is not int or pair[1] < 1 or (leases and pair[0] <= leases[-1][0]):
            raise fields.bad("leases")
        leases.append((pair[0], pair[1]))
    if total - previous != sum(size for _, size in leases) or not leases:
        raise fields.bad("total")
    fields.done()
    return Credit(
        origin, lineage, gate, account, epoch, position, tape, previous, total, tuple(leases)
    )


def sign_credit(credit: Credit, key: Ed25519PrivateKey) -> str:
    """The signature in hex."""
    return key.sign(CREDIT_PREFIX + encode(credit.document())).hex()


@dataclass(slots=True)
class Chain:
    """What one auditor has credited of one account of a gate, and what it still can.
    ``leases``: id in hex to (ledger time of the settlement, bytes used), oldest first; never
    changed in place, since copies share it (a state is copied before every append)."""

    position: int = 0
    total: int = 0
    leases: dict[str, tuple[int, int]] = field(default_factory=dict)

    def settled(self, lease_id: str, time_ms: int, used_bytes: int) -> None:
        if not used_bytes:
            return
        leases = self.leases | {lease_id: (time_ms, used_bytes)}
        if len(leases) > MAX_CREDITABLE:
            del leases[next(iter(leases))]
        self.leases = leases

    def copy(self) -> Chain:
        return Chain(self.position, self.total, self.leases)

    def drop_oldest(self) -> None:
        leases = dict(self.leases)
        del leases[next(iter(leases))]
        self.leases = leases

    def document(self) -> list[Any]:
        return [self.position, self.total, [[i, *row] for i, row in self.leases.items()]]

    @classmethod
    def of_document(cls, document: list[Any]) -> Chain:
        position, total, rows = document
        return cls(position, total, {lease_id: (at, used) for lease_id, at, used in rows})


@dataclass(slots=True)
class Auditor:
    """Who is enrolled for one gate."""

    key: str
    epoch: str
    terms: Terms
    chains: dict[str, Chain] = field(default_factory=dict)  # by account

    def copy(self) -> Auditor:
        return replace(self, chains={name: chain.copy() for name, chain in self.chains.items()})

    def document(self) -> Document:
        chains = {name: chain.document() for name, chain in self.chains.items()}
        return self.terms.document() | {"key": self.key, "epoch": self.epoch, "chains": chains}

    @classmethod
    def of_document(cls, document: Document) -> Auditor:
        fields = Fields(document, "auditor")
        key, epoch, chains = fields.take("key"), fields.take("epoch"), fields.take("chains")
        made = {name: Chain.of_document(row) for name, row in chains.items()}
        return cls(key, epoch, parse_terms(fields), made)


class Net:
    """The net budget of one lineage. ``meter`` is held and settled as the raw one is."""

    def __init__(self, net: NetLimits, meter: BudgetMeter) -> None:
        self.delta_ppt = net.delta_ppt
        self.taken_ppt = 0
        self.meter = meter
        self.auditors: dict[str, Auditor] = {}  # by gate

    @classmethod
    def beside(cls, net: NetLimits, raw: BudgetMeter) -> Net:
        """A new one: what the raw budget has spent and holds counts here too; windows start
        empty, as new ones of the raw budget do."""
        meter = BudgetMeter(net.limits)
        meter.spent_bytes, meter.outstanding_bytes = raw.spent_bytes, raw.outstanding_bytes
        return cls(net, meter)

    def limits(self) -> NetLimits:
        return NetLimits(self.meter.limits, self.delta_ppt)

    def set_limits(self, net: NetLimits) -> None:
        added = {length_ms for length_ms, _ in net.limits.windows} - self.meter.windows.keys()
        self.meter.set_limits(net.limits)
        self.delta_ppt = net.delta_ppt
        if added:
            # A window that starts in the middle of a granule holds only what came after. A lease
            # from before must not be taken out of it, so it comes out of no window any more.
            for chain in self.chains():
                chain.leases = {i: (0, used_bytes) for i, (_, used_bytes) in chain.leases.items()}

    # -- people ------------------------------------------------------------------------

    def tightens(self, enrolment: Enrolment) -> bool:
        """Whether it only narrows what the same auditor may do: one signature is enough."""
        current = [self.auditors.get(gate) for gate in enrolment.gates]
        return all(
            auditor is not None
            and (auditor.key, auditor.epoch) == (enrolment.key, enrolment.epoch)
            and enrolment.terms.within(auditor.terms)
            for auditor in current
        )

    def enrol(self, enrolment: Enrolment) -> None:
        """Errors: ``BudgetError`` where the pool of error probability does not hold it."""
        taken_ppt = self.taken_ppt
        for gate in enrolment.gates:
            old = self.auditors.get(gate)
            if old is not None and old.epoch == enrolment.epoch:
                if old.key != enrolment.key:
                    raise BudgetError(f"epoch {old.epoch[:16]} of {gate} has another key")
                # What is taken is never given back: the bound has been true or false meanwhile.
                taken_ppt += max(0, enrolment.terms.delta_ppt - old.terms.delta_ppt)
                chains = old.chains
            else:
                taken_ppt += enrolment.terms.delta_ppt
                chains = {}
            self.auditors[gate] = Auditor(enrolment.key, enrolment.epoch, enrolment.terms, chains)
        if taken_ppt > self.delta_ppt:
            left_ppt = max(0, self.delta_ppt - self.taken_ppt)
            raise BudgetError(
                f"the lineage's pool of error probability has {left_ppt} of 10^12 left",
                "raise it with the net budget (k operators), or enrol with a smaller delta",
            )
        if len(self.auditors) > MAX_AUDITED_GATES:
            raise BudgetError(f"more than {MAX_AUDITED_GATES} audited gates in one lineage")
        self.taken_ppt = taken_ppt

    def revoke(self, gates: tuple[str, ...]) -> None:
        """Errors: ``BudgetError`` where nobody audits one of them."""
        for gate in gates:
            if self.auditors.pop(gate, None) is None:
                raise BudgetError(f"nobody audits {gate}")

    # -- the log -----------------------------------------------------------------------

    def settled(
        self, gate: str, account: str, lease_id: str, time_ms: int, used_bytes: int
    ) -> None:
        """A lease was settled: from now on it can be credited, once."""
        auditor = self.auditors.get(gate)
        if auditor is not None:
            chain = auditor.chains.setdefault(account, Chain())
            chain.settled(lease_id, time_ms, used_bytes)

    def credit(self, credit: Credit, signature: bytes, time_ms: int) -> None:
        """Errors: ``BudgetError``; then nothing has changed."""
        auditor = self.auditors.get(credit.gate)
        if auditor is None or auditor.epoch != credit.epoch:
            raise BudgetError(f"no auditor of this epoch is enrolled for {credit.gate}")
        message = CREDIT_PREFIX + encode(credit.document())
        if not is_signed(bytes.fromhex(auditor.key), signature, message):
            raise BudgetError("the credit is not signed by the enrolled auditor")
        if self.taken_ppt > self.delta_ppt:
            raise BudgetError("the lineage's pool of error probability is spent")
        if credit.total % auditor.terms.grain_bytes:
            raise BudgetError(f"the total is no multiple of {auditor.terms.grain_bytes} bytes")
        chain = auditor.chains.get(credit.account, Chain())
        if credit.position <= chain.position or credit.previous != chain.total:
            raise BudgetError("the credit does not follow the last one")
        for lease_id, size_bytes in credit.leases:
            _, used_bytes = chain.leases.get(lease_id, (0, 0))
            if size_bytes > used_bytes * auditor.terms.most_ppm // PPM:
                raise BudgetError(f"lease {lease_id[:16]} cannot be credited with {size_bytes}")
        for lease_id, size_bytes in credit.leases:
            self.meter.credit(time_ms, chain.leases[lease_id][0], size_bytes)
        gone = dict(credit.leases)
        chain.leases = {i: row for i, row in chain.leases.items() if i not in gone}
        chain.position, chain.total = credit.position, credit.total

    # -- snapshots ---------------------------------------------------------------------

    def copy(self) -> Net:
        net = Net(self.limits(), self.meter.copy())
        net.taken_ppt = self.taken_ppt
        net.auditors = {gate: auditor.copy() for gate, auditor in self.auditors.items()}
        return net

    def document(self) -> Document:
        return {
            "delta_ppt": self.delta_ppt,
            "taken_ppt": self.taken_ppt,
            "meter": self.meter.document(),
            "auditors": {gate: auditor.document() for gate, auditor in self.auditors.items()},
        }

    @classmethod
    def of_document(cls, document: Mapping[str, Any]) -> Net:
        """Only for snapshots whose digest was checked."""
        meter = BudgetMeter.parse(document["meter"])
        net = cls(NetLimits(meter.limits, document["delta_ppt"]), meter)
        net.taken_ppt = document["taken_ppt"]
        net.auditors = {
            gate: Auditor.of_document(row) for gate, row in document["auditors"].items()
        }
        return net

    def chains(self) -> Iterator[Chain]:
        """Of all gates and accounts, in their order."""
        for _, auditor in sorted(self.auditors.items()):
            yield from (chain for _, chain in sorted(auditor.chains.items()))


def credited_positions(
    nets: Mapping[str, Net], gate: str, accounts: Collection[str]
) -> tuple[int, int]:
    """Least and greatest position of the newest credits of a gate's accounts; 0 without any."""
    auditors = [net.auditors[gate] for net in nets.values() if gate in net.auditors]
    found = [
        chain.position
        for auditor in auditors
        for account, chain in auditor.chains.items()
        if account in accounts and chain.position
    ]
    return min(found, default=0), max(found, default=0)


def bound_waiting(nets: Mapping[str, Net]) -> None:
    """After each settlement: at most ``MAX_WAITING`` leases wait for credits in all of a ledger.
    The longest list loses its oldest, so that whoever fills one takes nothing from the others."""
    chains = [chain for _, net in sorted(nets.items()) for chain in net.chains()]
    if sum(len(chain.leases) for chain in chains) > MAX_WAITING:
        max(chains, key=lambda chain: len(chain.leases)).drop_oldest()
