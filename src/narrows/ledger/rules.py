"""The rules of the ledger: a state, what may be done to it, and nothing else.

No clock, disk or network here: time is an argument, and the state is a function of the log's
leaves. leaves.py looks at a state and makes the leaf to append; ``State.apply`` is the only thing
that changes a state and checks every rule, so that the same code runs in operation, after a crash
and in offline verification. Leaf kinds:

    genesis  who may change budgets, and the names of the log
    open     a boot: ledger time at a reading of CLOCK_BOOTTIME, of one gate's machine or of all
    change   a signed change (see changes.py)
    lease    ``bytes`` held by ``gate`` for ``account``
    settle   ``used`` of a lease left; the rest returns
    dead     a gate died: the whole lease counts as spent
    credit   an auditor explained bytes of settled leases (see net.py)
    state    SHA-256 of the snapshot of the state before this leaf

Ledger time (``time_ms``, Unix milliseconds) never goes back in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256

from narrows.errors import BudgetError
from narrows.ledger.auditors import Enrolment, Revocation
from narrows.ledger.changes import (
    BudgetChange,
    Change,
    Charge,
    OperatorChange,
    Recovery,
    check_operator_change,
    parse_change,
    parse_operators,
    require,
    signers,
)
from narrows.ledger.keys import public_of_hex
from narrows.ledger.limits import BudgetMeter, Limits, Room
from narrows.ledger.log.canonical import MAX_INTEGER, Fields, decode
from narrows.ledger.log.merkle import leaf_hash
from narrows.ledger.net import Net, bound_waiting, parse_credit
from narrows.ledger.records import (
    Account,
    Anchor,
    Held,
    StateData,
)
from narrows.publickey import SIGNATURE_BYTES

MAX_LINEAGES = 64
MAX_GATES = 1 << 14
ID_BYTES = 16


class RuleError(BudgetError):
    """A leaf breaks a rule: the log that holds it is wrong."""


class State(StateData):
    """All that the leaves say. Replayed from the first leaf or read from a snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self._root: Callable[[], bytes] | None = None

    # -- what may be asked -------------------------------------------------------------

    def room(self, account: str, time_ms: int, need_bytes: int = 1) -> Room:
        """The tightest of the account's and its lineage's limits."""
        entry = self.accounts[account]
        if entry.closed:
            return Room(0, "depleted")
        meters = self._meters(account)[::-1]
        rooms = [meter.room(time_ms, need_bytes) for meter in meters]
        return min(
            rooms, key=lambda r: (r.free_bytes, r.reason != "depleted", -(r.free_at_ms or 0))
        )

    def only_net_lacks(self, account: str, time_ms: int, need_bytes: int) -> bool:
        """Whether nothing but the net budget of the account's lineage refuses ``need_bytes``."""
        entry = self.accounts[account]
        raw = (entry.meter, self.lineages[entry.lineage])
        return not entry.closed and all(
            meter.room(time_ms, need_bytes).free_bytes >= need_bytes for meter in raw
        )

    def clamp(self, time_ms: int) -> int:
        """Time does not go back: an earlier reading counts as the latest one in the log."""
        return max(time_ms, self.time_ms)

    def committed(self) -> dict[str, int]:
        """Bytes that can have left so far, by lineage: spent and outstanding."""
        return {name: meter.committed_bytes() for name, meter in sorted(self.lineages.items())}

    def anchor_of(self, gate: str | None, boot_id: str) -> Anchor | None:
        """The anchor of ``gate`` (None: of the ledger's one machine), if it is of this boot."""
        anchor = self.anchor if gate is None else self.anchors.get(gate)
        return anchor if anchor is not None and anchor.boot_id == boot_id else None

    def leases_of(self, gate: str) -> list[str]:
        return [lease_id for lease_id, held in self.leases.items() if held.gate == gate]

    # -- what changes it ---------------------------------------------------------------

    def apply(self, leaf: bytes, root: Callable[[], bytes] | None = None) -> None:
        """Take in the next leaf. ``root``: of the tree before it; a recovery needs it.
        ``RuleError`` if it breaks a rule; the state is then void, since a leaf may have been
        half applied, and must be rebuilt from the log."""
        self._root = root
        try:
            fields = Fields(decode(leaf), f"leaf {self.size}")
            kind = fields.text("t")
            if (kind == "genesis") != (self.size == 0):
                raise RuleError(f"leaf {self.size} is of kind {kind!r}")
            handler = _HANDLERS.get(kind)
            if handler is None:
                raise fields.bad("t")
            if kind != "state":
                time_ms = fields.integer("time_ms")
                if time_ms < self.time_ms:
                    raise RuleError(f"leaf {self.size} goes back in time")
                self.time_ms = time_ms
            handler(self, fields)
            fields.done()
        except RuleError:
            raise
        except BudgetError as error:
            message = f"leaf {self.size} breaks a rule: {error.message}"
            raise RuleError(message, error.remedy) from error
        if kind in ("genesis", "change"):
            self.last_change = (self.size, leaf_hash(leaf))
        self.size += 1

    def _genesis(self, fields: Fields) -> None:
        self.origin = fields.text("origin")
        self.log_key = public_of_hex(fields.take("log_key"), "the log's key").hex()
        witness = fields.take("witness_key")
        if witness is not None:
            self.witness_key = public_of_hex(witness, "the witness's key").hex()
        self.operators = parse_operators(fields)

    def _open(self, fields: Fields) -> None:
        anchor = Anchor(fields.text("boot"), fields.integer("boot_ms"), self.time_ms)
        if not fields.has("gate"):
            self.anchor = anchor
            return
        gate = fields.name("gate")
        if gate not in self.anchors and len(self.anchors) >= MAX_GATES:
            raise RuleError("too many gates in one ledger")
        self.anchors[gate] = anchor

    def _lease(self, fields: Fields) -> None:
        lease_id, account = fields.hex("id", ID_BYTES).hex(), fields.name("account")
        size_bytes, gate = fields.integer("bytes", 1), fields.name("gate")
        if account not in self.accounts or lease_id in self.leases:
            raise RuleError(f"leaf {self.size}: unknown account or repeated lease")
        if size_bytes > self.room(account, self.time_ms).free_bytes:
            raise RuleError(f"leaf {self.size} leases more than the budget has left")
        self.leases[lease_id] = Held(account, size_bytes, gate, self.time_ms)
        for meter in self._meters(account):
            meter.hold(size_bytes)

    def _settle(self, fields: Fields) -> None:
        self._end(fields.hex("id", ID_BYTES).hex(), fields.integer("used"))

    def _dead(self, fields: Fields) -> None:
        self._end(fields.hex("id", ID_BYTES).hex(), None)

    def _end(self, lease_id: str, used_bytes: int | None) -> None:
        held = self.leases.pop(lease_id, None)
        if held is None:
            raise RuleError(f"leaf {self.size} ends a lease that is not outstanding")
        used = held.size_bytes if used_bytes is None else used_bytes
        if used > held.size_bytes:
            raise RuleError(f"leaf {self.size} uses more than its lease")
        for meter in self._meters(held.account):
            meter.settle(self.time_ms, held.size_bytes, used)
        net = self.nets.get(self.accounts[held.account].lineage)
        if net is not None and used_bytes is not None:  # a dead lease is never credited
            net.settled(held.gate, held.account, lease_id, self.time_ms, used)
            bound_waiting(self.nets)

    def _meters(self, account: str) -> tuple[BudgetMeter, ...]:
        """Every meter that a lease of ``account`` counts against; the widest last."""
        entry = self.accounts[account]
        net = self.nets.get(entry.lineage)
        inner = (entry.meter,) if net is None else (entry.meter, net.meter)
        return (*inner, self.lineages[entry.lineage])

    def _credit(self, fields: Fields) -> None:
        credit = parse_credit(fields.table("credit", 16))
        signature = fields.hex("signature", SIGNATURE_BYTES)
        if credit.origin != self.origin:
            raise RuleError("a credit for another ledger")
        account = self.accounts.get(credit.account)
        if account is None or account.lineage != credit.lineage:
            raise RuleError(f"account {credit.account} is not of lineage {credit.lineage}")
        self._net(credit.lineage).credit(credit, signature, self.time_ms)

    def _net(self, lineage: str) -> Net:
        if lineage not in self.nets:
            raise RuleError(f"lineage {lineage} has no net budget", "propose one first")
        return self.nets[lineage]

    def _change(self, fields: Fields) -> None:
        document = fields.table("change", 64)
        signed_by = signers(document, fields.take("signatures"))
        self._check_and_make(parse_change(document), signed_by)

    def _check_and_make(self, change: Change, signed_by: frozenset[str]) -> None:
        if change.origin != self.origin:
            raise RuleError("a change for another ledger", "propose it on this one")
        if change.after != self.last_change:
            raise RuleError("another change came first, or this one was applied", "propose again")
        if change.not_after_ms < self.time_ms:
            raise RuleError("the change has expired", "propose it again")
        body = change.body
        if isinstance(body, OperatorChange):
            check_operator_change(self.operators, body.operators, signed_by)
            self.operators = body.operators
        elif isinstance(body, Recovery):
            require(self.operators, signed_by, self.operators.threshold)
            self._recover(body)
        elif isinstance(body, Enrolment):
            tightens = self._net(body.lineage).tightens(body)
            require(self.operators, signed_by, 1 if tightens else self.operators.threshold)
            self._net(body.lineage).enrol(body)
        elif isinstance(body, Revocation):
            require(self.operators, signed_by, 1)
            self._net(body.lineage).revoke(body.gates)
        elif isinstance(body, Charge):
            require(self.operators, signed_by, 1)
            self._charge(body)
        else:
            lowering = self.is_lowering(body)
            require(self.operators, signed_by, 1 if lowering else self.operators.threshold)
            self.set_budget(body)

    def is_lowering(self, change: BudgetChange) -> bool:
        """Whether a change allows nothing new: one signature is enough for it."""
        meter = self.lineages.get(change.lineage)
        if meter is None or not change.limits.within(meter.limits):
            return False
        net = self.nets.get(change.lineage)
        if net is not None and (change.net is None or not change.net.within(net.limits())):
            return False
        if net is None and change.net is not None and change.net.delta_ppt:
            return False  # a pool of error probability: nobody makes or refills one alone
        for name, limits in change.accounts.items():
            account = self.accounts.get(name)
            if account is None or account.closed or not limits.within(account.meter.limits):
                return False
        return True

    def set_budget(self, change: BudgetChange) -> None:
        for name in change.accounts:
            if name in self.accounts and self.accounts[name].lineage != change.lineage:
                raise RuleError(f"account {name} belongs to another lineage")
        raw = self._lineage(change.lineage)
        raw.set_limits(change.limits)
        if change.net is None:
            self.nets.pop(change.lineage, None)
        elif change.lineage in self.nets:
            self.nets[change.lineage].set_limits(change.net)
        else:
            self.nets[change.lineage] = Net.beside(change.net, raw)
        for name, account in self.accounts.items():
            if account.lineage == change.lineage:
                account.closed = name not in change.accounts
        for name, limits in change.accounts.items():
            account = self.accounts.setdefault(name, Account(change.lineage, BudgetMeter(limits)))
            account.meter.set_limits(limits)

    def _charge(self, charge: Charge) -> None:
        """Bytes that left another way are spent now, on the lineage and its net budget, where no
        auditor can explain them. No account had them."""
        raw = self.lineages.get(charge.lineage)
        if raw is None:
            raise RuleError(f"there is no lineage {charge.lineage}", "see narrows budget show")
        if charge.size_bytes > MAX_INTEGER - raw.committed_bytes():
            # Windows add up what ``settle`` bounds for a lifetime alone: no snapshot could hold it.
            raise RuleError("the charge comes to more than a ledger counts")
        net = self.nets.get(charge.lineage)
        for meter in (raw,) if net is None else (raw, net.meter):
            meter.settle(self.time_ms, 0, charge.size_bytes)

    def _lineage(self, name: str) -> BudgetMeter:
        """The lineage's meter; a new one grants nothing."""
        if name not in self.lineages and len(self.lineages) >= MAX_LINEAGES:
            raise RuleError("too many lineages in one ledger")
        return self.lineages.setdefault(name, BudgetMeter(Limits(0)))

    def _recover(self, recovery: Recovery) -> None:
        """Every outstanding lease is dead (its settlement may lie in the gap), and the gap
        counts as spent now: on the lineage (made here if the gap holds its making), on its net
        budget and, since nobody knows whose it was, in full on each of its accounts."""
        if recovery.base != (self.size, self._root() if self._root else None):
            raise RuleError("the recovery was made for another position", "propose it again")
        for lease_id in list(self.leases):
            self._end(lease_id, None)
        for net in self.nets.values():
            net.auditors.clear()  # a revocation may lie in the gap
        for lineage, gap_bytes in recovery.gaps.items():
            meters = [a.meter for a in self.accounts.values() if a.lineage == lineage]
            meters += [self.nets[lineage].meter] if lineage in self.nets else []
            for meter in (self._lineage(lineage), *meters):
                meter.settle(self.time_ms, 0, gap_bytes)

    def _state(self, fields: Fields) -> None:
        if fields.hex("digest", 32) != sha256(self.snapshot()).digest():
            raise RuleError(f"leaf {self.size}: the digest is not that of the state")


_HANDLERS = {
    "genesis": State._genesis,
    "open": State._open,
    "change": State._change,
    "lease": State._lease,
    "settle": State._settle,
    "dead": State._dead,
    "credit": State._credit,
    "state": State._state,
}
