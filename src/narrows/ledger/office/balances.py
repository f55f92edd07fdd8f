"""What a ledger's budgets stand at, for people and for ``narrows status``: read-only."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from narrows.ledger.auditors import PPT
from narrows.ledger.clock import Clock, LedgerTime, SystemClock
from narrows.ledger.keys import load_private, public_of
from narrows.ledger.ledger import Ledger
from narrows.ledger.limits import BudgetMeter
from narrows.ledger.net import Chain, Net
from narrows.ledger.replica import Replica
from narrows.ledger.rules import State
from narrows.ledger.stores.place import LedgerPlace


@dataclass(frozen=True, slots=True)
class WindowBalance:
    """A rolling window: ``used_bytes`` counts settled and outstanding."""

    length_ms: int
    cap_bytes: int
    used_bytes: int
    left_bytes: int


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """``cap_bytes``: None where the account has no lifetime cap of its own. ``left_bytes``:
    what could be leased now, its lineage's limits included."""

    account: str
    cap_bytes: int | None
    spent_bytes: int
    outstanding_bytes: int
    left_bytes: int
    closed: bool
    windows: tuple[WindowBalance, ...]


@dataclass(frozen=True, slots=True)
class AuditBalance:
    """Who audits one account of a gate; ``account`` is empty while nothing has settled there.
    ``creditable_bytes``: settled, and not yet credited."""

    gate: str
    account: str
    auditor: str
    epoch: str
    credited_bytes: int
    creditable_bytes: int


@dataclass(frozen=True, slots=True)
class NetBalance:
    """The net budget of a lineage: what left, less what auditors explained. ``delta_left``:
    what is left of the pool of error probability."""

    granted_bytes: int
    spent_bytes: int
    outstanding_bytes: int
    left_bytes: int
    windows: tuple[WindowBalance, ...]
    delta_left: float
    audits: tuple[AuditBalance, ...]


@dataclass(frozen=True, slots=True)
class LineageBalance:
    """``net``: None where the lineage has no net budget."""

    lineage: str
    granted_bytes: int
    spent_bytes: int
    outstanding_bytes: int
    left_bytes: int
    windows: tuple[WindowBalance, ...]
    accounts: tuple[AccountBalance, ...]
    net: NetBalance | None = None


@dataclass(frozen=True, slots=True)
class Balances:
    """All lineages of a ledger; the four sums run over them, lifetime, in bytes:
    ``granted = spent + outstanding + left`` (left is 0 where a cap was lowered below)."""

    origin: str
    position: int
    time_ms: int
    granted_bytes: int
    spent_bytes: int
    outstanding_bytes: int
    left_bytes: int
    lineages: tuple[LineageBalance, ...]


def balances_of(state: State, time_ms: int) -> Balances:
    """Every balance of ``state`` at ``time_ms``."""
    lineages = []
    for name, meter in sorted(state.lineages.items()):
        accounts = tuple(
            AccountBalance(
                account,
                entry.meter.limits.lifetime_bytes,
                entry.meter.spent_bytes,
                entry.meter.outstanding_bytes,
                state.room(account, time_ms).free_bytes,
                entry.closed,
                _windows(entry.meter, time_ms),
            )
            for account, entry in sorted(state.accounts.items())
            if entry.lineage == name
        )
        granted = meter.limits.lifetime_bytes or 0
        left = max(0, granted - meter.committed_bytes())
        windows = _windows(meter, time_ms)
        lineages.append(
            LineageBalance(
                name,
                granted,
                meter.spent_bytes,
                meter.outstanding_bytes,
                left,
                windows,
                accounts,
                _net(state.nets[name], time_ms) if name in state.nets else None,
            )
        )
    return Balances(
        state.origin,
        state.size,
        time_ms,
        sum(line.granted_bytes for line in lineages),
        sum(line.spent_bytes for line in lineages),
        sum(line.outstanding_bytes for line in lineages),
        sum(line.left_bytes for line in lineages),
        tuple(lineages),
    )


def _net(net: Net, time_ms: int) -> NetBalance:
    granted = net.meter.limits.lifetime_bytes or 0
    audits = tuple(
        AuditBalance(
            gate,
            account,
            auditor.key,
            auditor.epoch,
            chain.total,
            sum(used_bytes for _, used_bytes in chain.leases.values()),
        )
        for gate, auditor in sorted(net.auditors.items())
        for account, chain in sorted((auditor.chains or {"": Chain()}).items())
    )
    return NetBalance(
        granted,
        net.meter.spent_bytes,
        net.meter.outstanding_bytes,
        max(0, granted - net.meter.committed_bytes()),
        _windows(net.meter, time_ms),
        max(0, net.delta_ppt - net.taken_ppt) / PPT,
        audits,
    )


def current_balances(ledger: Ledger) -> Balances:
    """Every balance of an open ledger as of now. Errors: ``BudgetError``."""
    with ledger.exclusive() as session:
        session.ready()
        return balances_of(session.state, session.now_ms())


def read_state(place: LedgerPlace) -> State:
    """The state of the ledger at ``place``, while a gate may be using it. Checks the log's
    signature, not the witness. Errors: ``BudgetError``."""
    with closing(place.read()) as store:
        replica = Replica(store, public_of(load_private(place.key_file)), None)
        replica.reload()
    return replica.state


def read_balances(place: LedgerPlace, clock: Clock | None = None) -> Balances:
    """The balances of the ledger at ``place``, as ``read_state``; at its newest leaf's time
    on a machine where no gate has started since it booted."""
    return balances_now(read_state(place), clock or SystemClock())


def balances_now(state: State, clock: Clock) -> Balances:
    """The same of a state that was read."""
    boot_id = clock.boot_id()
    for anchor in (state.anchor, *state.anchors.values()):
        if anchor.boot_id == boot_id:
            return balances_of(state, state.clamp(LedgerTime(clock, anchor).now_ms()))
    return balances_of(state, state.time_ms)


def _windows(meter: BudgetMeter, time_ms: int) -> tuple[WindowBalance, ...]:
    rows = []
    for window in meter.windows.values():
        used = meter.outstanding_bytes + window.settled_at(time_ms)
        left = max(0, window.cap_bytes - used)
        rows.append(WindowBalance(window.length_ms, window.cap_bytes, used, left))
    return tuple(rows)
